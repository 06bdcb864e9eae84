"""What a checkpoint carries of the generators goes back to as many devices as there are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tcurlora_seg.training.callbacks import RandomState


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
