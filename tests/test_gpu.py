"""What can only be seen on a CUDA device: the same numbers, bfloat16, memory. Skipped where there is none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs import TINY, run_script
from torch import Tensor, nn

from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.models.backbone import speed_up
from tcurlora_seg.models.injection import adapt

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("adapter", ["tcurlora", "lora", "full"])
def test_the_device_computes_what_the_processor_computes(
    tiny: nn.Module, image: Tensor, stir: Callable[..., nn.Module], distance: Callable[..., float], adapter: str
) -> None:
    model = adapt(tiny, adapter, **({} if adapter == "full" else {"rank": 3}))
    model = speed_up(stir(model) if adapter != "full" else model).double()
    on_device = copy.deepcopy(model).cuda()
    for network, batch in ((model, image.double()), (on_device, image.double().cuda())):
        network(batch).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), on_device.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            assert distance(theirs.grad.cpu(), ours.grad) < 1e-8, name


def test_a_training_in_bfloat16_ends_with_scores_and_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate("lpba40", tmp_path / "data", subjects=7, seed=0, spacing=8.0)
    settings = (*TINY, f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path}", f"output={tmp_path / 'run'}")
    assert run_script("train", *settings, "trainer.precision=bf16-mixed", "trainer.accelerator=gpu",
                      monkeypatch=monkeypatch) == 0  # fmt: skip
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["scores"]["cases"] == 2 and 0 < metrics["peak_memory_bytes"] < 2**30


def test_checkpointing_takes_less_memory(build: Callable[..., nn.Module]) -> None:
    def peak(*, checkpointing: bool) -> int:
        network = build(img_size=[64, 64, 64], feature_size=16)
        model = speed_up(adapt(network, "tcurlora", rank=3), checkpointing=checkpointing).cuda().train()
        torch.cuda.reset_peak_memory_stats()
        model(torch.randn(2, 1, 64, 64, 64, device="cuda")).square().sum().backward()
        return torch.cuda.max_memory_allocated()

    assert peak(checkpointing=True) < 0.75 * peak(checkpointing=False)
