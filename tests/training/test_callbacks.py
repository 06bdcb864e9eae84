"""What a checkpoint carries of the generators goes back to as many devices as there are; the line of an epoch."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from tcurlora_seg.training.callbacks import RandomState
from tcurlora_seg.training.progress import EpochLine


@pytest.mark.parametrize(("saved", "devices"), [(4, 1), (1, 4), (2, 2), (3, 0)])
def test_a_run_goes_on_with_fewer_or_more_devices(monkeypatch: pytest.MonkeyPatch, saved: int, devices: int) -> None:
    """With stand-ins for the devices."""
    states = [torch.full((16,), n, dtype=torch.uint8) for n in range(saved)]
    restored: dict[int, torch.Tensor] = {}

    def restore(state: torch.Tensor, device: int) -> None:
        if device >= devices:
            raise RuntimeError("invalid device ordinal")
        restored[device] = state

    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "set_rng_state", restore)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [])
    callback = RandomState()
    callback.load_state_dict({**RandomState().state_dict(), "cuda": states})
    callback.on_train_start(SimpleNamespace(global_rank=0), SimpleNamespace())
    assert list(restored) == list(range(min(saved, devices)))
    assert all(torch.equal(restored[n], states[n]) for n in restored)


def test_the_line_of_an_epoch_tells_the_remaining_time_of_the_steps_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = SimpleNamespace(
        global_step=100,
        max_steps=400,
        is_global_zero=True,
        callback_metrics={"train/loss_epoch": torch.tensor(0.5)},
        optimizers=[SimpleNamespace(param_groups=[{"lr": 1e-3}])],
    )
    callback = EpochLine()
    clock = 1000.0
    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    callback.on_train_start(trainer, SimpleNamespace())
    trainer.global_step, clock = 160, 1060.0
    callback.at_epoch_end(trainer, SimpleNamespace())
    trainer.global_step, clock = 400, 1300.0
    callback.at_epoch_end(trainer, SimpleNamespace())
    now, last = capsys.readouterr().out.splitlines()
    assert now == "step 160/400  loss 0.5000  lr 1.00e-03  about 4 min left"
    assert last == "step 400/400  loss 0.5000  lr 1.00e-03"
