"""What can only be seen on a CUDA device: the same numbers, bfloat16, memory. Skipped where there is none.

`make gpu` runs it; with DEVICE=cpu it runs on the processor, to see that it runs.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs import TINY, run_script
from torch import Tensor, nn

from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.memory import peak_of_tensors
from tcurlora_seg.models.injection import adapt
from tcurlora_seg.models.speed import speed_up
from tcurlora_seg.training.estimate import estimate_step
from tcurlora_seg.training.module import SegmentationModule

DEVICE = torch.device(os.environ.get("TCURLORA_SEG_TEST_DEVICE", "cuda"))
absent = DEVICE.type == "cuda" and not torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(absent, reason="no CUDA device")]


@pytest.mark.parametrize("adapter", ["tcurlora", "lora", "full"])
def test_the_device_computes_what_the_processor_computes(
    tiny: nn.Module, image: Tensor, stir: Callable[..., nn.Module], distance: Callable[..., float], adapter: str
) -> None:
    model = adapt(tiny, adapter, **({} if adapter == "full" else {"rank": 3}))
    model = speed_up(stir(model) if adapter != "full" else model).double()
    on_device = copy.deepcopy(model).to(DEVICE)
    for network, batch in ((model, image.double()), (on_device, image.double().to(DEVICE))):
        network(batch).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), on_device.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            assert distance(theirs.grad.cpu(), ours.grad) < 1e-8, name


@pytest.mark.parametrize("compile", ["false", "true"])
def test_a_training_in_bfloat16_ends_with_scores_and_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compile: str
) -> None:
    simulate("lpba40", tmp_path / "data", subjects=7, seed=0, spacing=8.0)
    settings = (*TINY, f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path}", f"output={tmp_path / 'run'}")
    assert run_script("train", *settings, "trainer.precision=bf16-mixed", f"trainer.accelerator={DEVICE.type}",
                      "data.num_workers=1", f"training.compile={compile}", monkeypatch=monkeypatch) == 0  # fmt: skip
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["scores"]["cases"] == 2 and 0 < metrics["peak_memory_bytes"] < 4 * 2**30


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_memory_of_a_step_is_what_was_expected(
    build: Callable[..., nn.Module], checkpointing: bool, bf16: bool
) -> None:
    network = build(img_size=[64, 64, 64], feature_size=16)
    model = speed_up(adapt(network, "tcurlora", rank=3), half=bf16, checkpointing=checkpointing).train()
    expected, _ = estimate_step(model, (2, 1, 64, 64, 64), DEVICE, bf16=bf16)
    held = sum(p.nbytes * (4 if p.requires_grad else 1) for p in model.parameters())  # with the optimiser's states
    model.to(DEVICE)
    images = torch.randn(2, 1, 64, 64, 64, device=DEVICE)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            logits = model(images)
        logits.float().softmax(1).sum().backward()

    assert held + peak_of_tensors(step, DEVICE) == pytest.approx(expected, rel=0.5)  # kernels take workspace, too


def test_no_step_that_is_not_logged_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch itself is asked to raise an error where a step reads anything back from the device."""

    def guard(self: SegmentationModule, *_: object) -> None:
        following = self.global_step + 1
        if DEVICE.type == "cuda" and following > 3:  # kernels are chosen in the first ones
            torch.cuda.set_sync_debug_mode("error" if following % 5 else "default")

    def lift(self: SegmentationModule, *_: object) -> None:
        if DEVICE.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(SegmentationModule, "on_train_batch_start", guard)
    monkeypatch.setattr(SegmentationModule, "on_train_batch_end", lift)
    simulate("lpba40", tmp_path / "data", subjects=6, seed=0, spacing=8.0)
    settings = (*TINY, f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path}", f"output={tmp_path / 'run'}")
    assert run_script("train", *settings, "test=null", f"trainer.accelerator={DEVICE.type}", "trainer.max_steps=10",
                      "data.steps_per_epoch=10", monkeypatch=monkeypatch) == 0  # fmt: skip
