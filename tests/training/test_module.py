"""The Lightning module: its schedule, its parameter groups, and what its checkpoints keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from shutil import which
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import tcurlora_seg
from tcurlora_seg.adapters.tcurlora import TCURLoRA
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import PreparedCase
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.windows import Predictor
from tcurlora_seg.models.injection import inject
from tcurlora_seg.models.speed import speed_up
from tcurlora_seg.models.stacking import stacks_for
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


def test_tensors_have_rates_of_their_own_by_glob_and_the_last_that_matches_counts(tiny: nn.Module) -> None:
    tiny.requires_grad_(True)
    wrapped = module(tiny, lr_factors={"vit.**": 0.1, "vit.patch_embedding.**": 0.01})
    optimizer = wrapped.configure_optimizers()["optimizer"]
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in tiny.named_parameters()}
    assert named["decoder2.conv_block.conv1.conv.weight"] == pytest.approx(0.5)
    assert named["vit.blocks.0.mlp.linear1.weight"] == pytest.approx(0.05)
    assert named["vit.patch_embedding.patch_embeddings.weight"] == pytest.approx(0.005)
    near = module(tiny, lr_factors={"vit.**": 0.12345678, "decoder2.**": 0.12345679})
    groups = near.configure_optimizers()["optimizer"].param_groups
    assert len(groups) == 3 and sum(len(group["params"]) for group in groups) == len(rates)
    with pytest.raises(UserError, match=r"training\.lr_factors: 'vot\.\*\*' matches no parameter"):
        module(tiny, lr_factors={"vot.**": 0.1}).configure_optimizers()


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


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",  # all of `torch.compile` but writing C++ and compiling it, which takes minutes
        pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.skipif(not which("g++"), reason="no compiler")]),
    ],
)
def test_compiled_steps_have_the_same_gradients(
    tiny: nn.Module, stir: Callable[..., nn.Module], image: Tensor, distance: Callable[[Tensor, Tensor], float],
    monkeypatch: pytest.MonkeyPatch, backend: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    stir(speed_up(tcurlora_seg.adapt(tiny.double(), "tcurlora", rank=2).train(), checkpointing=True))
    images = torch.cat([image, image.flip(2)]).double()
    found = []
    torch.compiler.reset()
    counters.clear()
    for compile in (False, True):
        wrapped = module(tiny, compile=compile)
        wrapped.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
        tiny.zero_grad()
        wrapped.training_step({"image": images, "label": (images > 1).to(torch.uint8)}, 0)["loss"].backward()
        found.append(torch.cat([p.grad.flatten() for p in tiny.parameters() if p.grad is not None]))
        assert (counters["frames"]["ok"] > 0) == compile
    assert distance(found[1], found[0]) < 1e-10


@pytest.mark.parametrize(
    ("fade", "expected"), [(1.0, [1.0, 0.5, 0.0]), (0.7, [1.0, 0.65, 0.3]), (0.0, [1.0, 1.0, 1.0])]
)
def test_class_weights_fade_by_the_share_asked_for(
    tiny: nn.Module, image: Tensor, monkeypatch: pytest.MonkeyPatch, fade: float, expected: list[float]
) -> None:
    wrapped = module(tiny, class_weights=[1.0, 6.0], weights_fade=fade)
    wrapped.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    found = []
    for step in (0, 50, 120):  # the last beyond the end, as after an epoch that was rounded up
        monkeypatch.setattr(SegmentationModule, "global_step", step)
        wrapped.training_step({"image": image, "label": (image > 1).to(torch.uint8)}, 0)
        found.append(wrapped.criterion.strength)
    assert found == pytest.approx(expected)


def test_a_checkpoint_keeps_what_trains_and_the_adapters_alone(tiny: nn.Module) -> None:
    tcurlora_seg.adapt(tiny, "tcurlora", rank=2)
    wrapped = module(tiny)
    checkpoint = {"state_dict": wrapped.state_dict()}
    wrapped.on_save_checkpoint(checkpoint)
    kept = {name.removeprefix("network.") for name in checkpoint["state_dict"]}
    assert {name for name, p in tiny.named_parameters() if p.requires_grad} <= kept
    assert {"adapters.up.core", "adapters.up.rows", "adapters.up.columns"} <= kept
    assert not any(name.startswith(("vit.", "encoder")) for name in kept)


def test_validation_gives_the_label_map_without_whole_probabilities(tiny: nn.Module) -> None:
    """Its map is made slab by slab, as bytes: of 56 classes in a whole head, eight-byte classes alone are 64 MB."""
    image = torch.rand(1, 40, 36, 33, generator=torch.Generator().manual_seed(0))
    wrapped = module(tiny)
    label = torch.zeros(1, 40, 36, 33)
    case = PreparedCase(case="a", patient="a", image=image, label=label, native_label=label[0], affine=np.eye(4),
                        preparation=Preparation())  # fmt: skip
    found = wrapped.validation_step(case, 0)["prediction"]
    expected = wrapped.predictor(image).argmax(0)
    assert str(found.dtype) == "uint8" and torch.equal(torch.from_numpy(found).long(), expected)
    assert 0 < expected.float().mean() < 1


@pytest.mark.parametrize("loss", ["dice_ce", "dice"])
def test_the_loss_is_least_for_the_truth(tiny: nn.Module, loss: Any) -> None:
    criterion = module(tiny, loss=loss).criterion
    label = (torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.8).long()
    right = torch.cat([1 - label, label], 1) * 20.0
    assert float(criterion(right, label)) < 0.01 < 0.4 < float(criterion(-right, label))


def test_a_step_that_the_loss_scaler_leaves_out_is_none_for_the_adapters(tiny: nn.Module) -> None:
    """With a stand-in for float16's scaler, which halves its scale at an overflow."""
    steps: list[int] = []

    class Recorder(TCURLoRA):
        @classmethod
        def after_step(cls, adapters: Any, step: int, total: int, lr: float) -> None:
            steps.append(step)

    inject(tiny, {"up": (stacks_for(tiny, ["up"])[0], partial(Recorder, rank=2))}, trainable=["out.**"], seed=0)
    trainer = lightning.Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    scales = iter([8.0, 8.0, 8.0, 4.0, 4.0, 4.0])
    trainer.precision_plugin.scaler = SimpleNamespace(get_scale=lambda: next(scales))
    batch = {"image": torch.zeros(1, 1, 32, 32, 32), "label": torch.zeros(1, 1, 32, 32, 32)}
    trainer.fit(module(tiny), torch.utils.data.DataLoader([batch] * 3, batch_size=None))
    assert steps == [1, 3]


def test_adapters_act_after_every_optimisers_step_at_its_rate_and_with_its_gradients(tiny: nn.Module) -> None:
    """Two batches a step; the rate of the step itself, not the next one's, and the adapters' own."""
    calls = []

    class Recorder(TCURLoRA):
        @classmethod
        def penalty(cls, adapters: Any) -> Any:
            return 2.0 * adapters[0].core.sum()

        @classmethod
        def after_step(cls, adapters: Any, step: int, total: int, lr: float) -> None:
            calls.append((len(adapters), step, total, lr, adapters[0].core.grad.clone()))

    stacks = {role: (stacks_for(tiny, [role])[0], partial(Recorder, rank=2)) for role in ("up", "down")}
    inject(tiny, stacks, trainable=["out.**"], seed=0)
    wrapped = module(tiny, adapter_lr_factor=3.0, decay_power=1.0)
    batch = {"image": torch.zeros(1, 1, 32, 32, 32), "label": torch.zeros(1, 1, 32, 32, 32)}
    trainer = lightning.Trainer(
        max_steps=2, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(wrapped, torch.utils.data.DataLoader([batch] * 4, batch_size=None))
    assert [call[:3] for call in calls] == [(2, 1, 100), (2, 2, 100)]
    assert [call[3] for call in calls] == pytest.approx([1.5, 1.5 * 0.99])
    assert all((call[4] > 1).all() for call in calls), "the penalty's gradient is there"


def test_a_checkpoint_keeps_running_statistics_though_nothing_of_them_trains(
    batch_normalised: Callable[[], nn.Module],
) -> None:
    network = tcurlora_seg.adapt(batch_normalised(), "lora", rank=2, trainable=[])
    checkpoint = {"state_dict": module(network).state_dict()}
    module(network).on_save_checkpoint(checkpoint)
    kept = checkpoint["state_dict"]
    assert "network.encoder1.layer.norm1.running_var" in kept and "network.encoder1.layer.conv1.conv.weight" not in kept
