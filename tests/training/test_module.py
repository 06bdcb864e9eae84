"""The Lightning module: its schedule, its parameter groups, and what its checkpoints keep."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import tcurlora_seg
from tcurlora_seg.evaluation.inference import Predictor
from tcurlora_seg.training.module import SegmentationModule


def module(network: nn.Module, **options: Any) -> SegmentationModule:
    return SegmentationModule(
        network=network,
        optimizer=partial(torch.optim.SGD, lr=0.5),
        predictor=Predictor(network, window=[32, 32, 32]),
        structures={"target": (1,)},
        total_steps=100,
        **options,
    )


def test_the_rate_decays_polynomially_after_a_linear_warm_up(tiny: nn.Module) -> None:
    rate = module(tiny, decay_power=0.9, warmup_steps=4)._rate
    assert [rate(step) for step in (10, 50, 99)] == pytest.approx([0.9**0.9, 0.5**0.9, 0.01**0.9])
    assert rate(0) == pytest.approx(0.2)
    assert rate(1) == pytest.approx(0.4 * 0.99**0.9)
    assert module(tiny, decay_power=0.0)._rate(99) == 1.0
    assert rate(100) == 0.0


def test_the_optimiser_holds_exactly_what_trains_and_adapters_have_their_own_rate(tiny: nn.Module) -> None:
    tcurlora_seg.adapt(tiny, "tcurlora", rank=2)
    wrapped = module(tiny, adapter_lr_factor=3.0)
    optimizer = wrapped.configure_optimizers()["optimizer"]
    held = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    training = {id(p): name for name, p in tiny.named_parameters() if p.requires_grad}
    assert held.keys() == training.keys()
    cores = [i for i, name in training.items() if name.startswith("adapters.")]
    assert len(cores) == 3
    for i, rate in held.items():
        assert rate == pytest.approx(1.5 if i in cores else 0.5)


def test_a_checkpoint_keeps_what_trains_and_the_adapters_alone(tiny: nn.Module) -> None:
    tcurlora_seg.adapt(tiny, "tcurlora", rank=2)
    wrapped = module(tiny)
    checkpoint = {"state_dict": wrapped.state_dict()}
    wrapped.on_save_checkpoint(checkpoint)
    kept = {name.removeprefix("network.") for name in checkpoint["state_dict"]}
    assert {name for name, p in tiny.named_parameters() if p.requires_grad} <= kept
    assert {"adapters.up.core", "adapters.up.rows", "adapters.up.columns"} <= kept
    assert not any(name.startswith(("vit.", "encoder")) for name in kept)


@pytest.mark.parametrize("loss", ["dice_ce", "dice"])
def test_the_loss_is_least_for_the_truth(tiny: nn.Module, loss: Any) -> None:
    criterion = module(tiny, loss=loss).criterion
    label = (torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.8).long()
    right = torch.cat([1 - label, label], 1) * 20.0
    assert float(criterion(right, label)) < 0.01 < 0.4 < float(criterion(-right, label))
