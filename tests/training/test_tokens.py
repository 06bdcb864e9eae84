"""Deep supervision of the transformer by the classes in the cells of its patches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import make
from programs import run_script
from safetensors.torch import load_file
from torch import nn

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.windows import Predictor
from tcurlora_seg.training.module import SegmentationModule
from tcurlora_seg.training.tokens import TokenSupervision


def module(network: nn.Module, **options: Any) -> SegmentationModule:
    wrapped = SegmentationModule(
        network=network,
        optimizer=partial(torch.optim.SGD, lr=0.5),
        predictor=Predictor(network, window=[32, 32, 32]),
        structures={"target": (1,)},
        total_steps=100,
        **options,
    )
    wrapped.log = lambda *_, **__: None  # type: ignore[method-assign]
    return wrapped


def test_cells_lie_where_their_voxels_do(tiny: nn.Module) -> None:
    supervision = TokenSupervision(tiny, classes=3)
    cells = torch.randint(3, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    target = cells.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    shares = supervision._shares(target)
    assert shares.shape == (2, 8, 64, 3)
    supervision.heads = nn.ModuleList(nn.Identity() for _ in supervision.heads)
    supervision._tokens = {place: 30 * shares.flatten(2) for place in range(4)}
    loss, found = supervision(target)
    assert loss < 1e-6
    torch.testing.assert_close(found, target[:, 0])


def test_a_cell_counts_by_its_shares_and_weights_and_ignored_voxels_not_at_all(tiny: nn.Module) -> None:
    supervision = TokenSupervision(tiny, classes=2, weights=[1.0, 3.0])
    target = torch.zeros(1, 1, 32, 32, 32, dtype=torch.uint8)
    target[..., :16] = IGNORED
    target[..., 16, 0, 0] = 1
    supervision.heads = nn.ModuleList(nn.Identity() for _ in supervision.heads)
    logits = torch.tensor([0.5, -0.5]).repeat(1, 8, 64)
    supervision._tokens = dict.fromkeys(range(4), logits)
    ones = int((target == 1).sum())
    zeros = int((target == 0).sum())
    log_p = torch.tensor([0.5, -0.5]).log_softmax(0)
    expected = -(zeros * log_p[0] + 3 * ones * log_p[1]) / (zeros + 3 * ones)
    torch.testing.assert_close(supervision(target)[0], expected)


def test_alone_it_reaches_every_block_and_no_decoder(tiny: nn.Module) -> None:
    tiny.requires_grad_(True)
    wrapped = module(tiny, loss="tokens")
    batch = {"image": torch.randn(1, 1, 32, 32, 32), "label": torch.randint(2, (1, 1, 32, 32, 32))}
    result = wrapped.training_step(batch, 0)
    result["loss"].backward()
    reached = {name for name, p in tiny.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {f"vit.blocks.{k}.mlp.linear1.weight" for k in range(12)} <= reached
    assert all(name.startswith("vit.") for name in reached)
    assert result["predicted"].shape == (1, 32, 32, 32)
    held = {id(p) for group in wrapped.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert {id(p) for p in wrapped.tokens.parameters()} <= held
    wrapped.on_train_end()
    assert not any(block._forward_hooks for block in tiny.vit.blocks)


def test_beside_a_loss_it_is_added_with_its_factor(tiny: nn.Module) -> None:
    batch = {"image": torch.randn(1, 1, 32, 32, 32), "label": torch.randint(2, (1, 1, 32, 32, 32))}
    losses = []
    for factor in (0.0, 1.0, 2.0):
        torch.manual_seed(0)
        wrapped = module(tiny, token_loss=factor)
        losses.append(float(wrapped.training_step(batch, 0)["loss"].detach()))
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-4)


def test_a_network_without_such_a_transformer_is_refused() -> None:
    swin = make("swin_unetr_tiny")
    with pytest.raises(UserError, match=r"training\.token_loss: SwinUNETR has no transformer of one patch size"):
        TokenSupervision(swin, classes=2)


def test_a_transformer_alone_trains_resumes_and_leaves_the_decoder_as_it_was(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["dataset=lpba40", f"dataset.root={cohort}", "adapter=full", "model=unetr_tiny", "pretrained=random",
               "training.loss=tokens", "test=null", "data.batch_size=1", "data.steps_per_epoch=1", "logger=none",
               f"outputs={tmp_path}", f"output={tmp_path / 'run'}"]  # fmt: skip
    assert run_script("train", *options, "trainer.max_steps=2", monkeypatch=monkeypatch) == 0
    assert run_script("train", f"resume={tmp_path / 'run'}", "trainer.max_steps=3", monkeypatch=monkeypatch) == 0
    trained = load_file(tmp_path / "run" / "model.safetensors")
    base = load_file(next((tmp_path / "bases").glob("*.safetensors")))
    assert not any(name.startswith("tokens") for name in trained)
    moved = {name for name, tensor in base.items() if not torch.allclose(trained[name], tensor, rtol=1e-6)}
    assert "vit.blocks.0.mlp.linear1.weight" in moved and all(name.startswith("vit.") for name in moved)
