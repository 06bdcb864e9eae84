"""The start of a new output layer: a logistic regression, and what a run makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs import TINY, run_script
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.models.backbone import Backbone
from tcurlora_seg.training.head import output_layer, probe


class Shown(nn.Module):
    """A network whose features are its images, times a number of each channel's."""

    backbone = Backbone()

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("sizes", torch.logspace(-2, 2, channels)[:, None, None, None])
        self.out = nn.Conv3d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x * self.sizes + 7)


def windows(
    number: int, channels: int, label: Callable[[Tensor], Tensor], side: int = 20
) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(3)
    images = [torch.randn(channels, side, side, side, generator=g) for _ in range(number)]
    return [{"image": image, "label": label(image)[None].to(torch.uint8)} for image in images]


def test_what_is_linear_in_the_features_is_found_whatever_their_size() -> None:
    truth = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    samples = windows(4, 4, lambda image: torch.einsum("kc,cxyz->kxyz", truth, image).argmax(0))
    network = Shown(4, 3)
    probe(network, network.out, samples, precision="32-true")
    with torch.no_grad():
        for sample in samples:
            assert (network(sample["image"][None])[0].argmax(0) == sample["label"][0]).double().mean() > 0.97


@pytest.mark.parametrize(("weights", "expected"), [(None, [0.8, 0.2]), ([1.0, 4.0], [0.5, 0.5])])
def test_without_a_clue_in_the_features_classes_have_their_weighted_frequencies(
    weights: list[float] | None, expected: list[float]
) -> None:
    # 6,400 voxels of one class and 1,600 of the other: of both no more than 500 a window are looked at
    samples = windows(2, 1, lambda image: (torch.arange(8000) % 5 == 0).reshape(20, 20, 20))
    network = Shown(1, 2)
    probe(network, network.out, samples, precision="32-true", weights=weights)
    with torch.no_grad():
        shares = network(torch.zeros(1, 1, 2, 2, 2)).softmax(1)[0, :, 0, 0, 0]
    assert shares.tolist() == pytest.approx(expected, abs=0.02)


def test_a_class_in_no_window_stays_alive_and_ignored_voxels_do_not_count() -> None:
    def label(image: Tensor) -> Tensor:
        return torch.where(image[0] > 1, IGNORED, (image[1] > 0).long())

    network = Shown(2, 3)
    probe(network, network.out, windows(2, 2, label), precision="32-true")
    with torch.no_grad():
        shares = network(torch.randn(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))).softmax(1)
    assert 0.001 < float(shares[:, 2].mean()) < 0.05
    assert float(shares[:, 2].max()) < 0.2
    before = network.out.weight.clone()
    probe(network, network.out, windows(1, 2, lambda image: torch.full_like(image[0], IGNORED)), precision="32-true")
    assert torch.equal(network.out.weight, before)


def test_only_a_single_linear_map_for_all_voxels_is_fitted_and_nothing_else_changes(tiny: nn.Module) -> None:
    layer = output_layer(tiny)
    assert layer is tiny.get_submodule("out.conv.conv")
    before = {name: p.clone() for name, p in tiny.named_parameters()}
    tiny.train()
    probe(tiny, layer, windows(2, 1, lambda image: image[0] > 1, side=32), precision="32-true")
    moved = {name for name, p in tiny.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"out.conv.conv.weight", "out.conv.conv.bias"} and tiny.training
    tiny.out.conv.conv = nn.Conv3d(4, 2, 3, padding=1)
    assert output_layer(tiny) is None


def test_a_run_begins_so_where_its_output_layer_is_new(
    root: Path, tmp_path: Path, build: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base.safetensors"
    save_file({name: p.detach().contiguous() for name, p in build(out_channels=3).named_parameters()}, base)
    same = tmp_path / "same.safetensors"
    save_file({name: p.detach().contiguous() for name, p in build(out_channels=2).named_parameters()}, same)

    def start(name: str, *arguments: str, windows: int = 2) -> tuple[Tensor, dict[str, object]]:
        options = ("dataset=lpba40", f"dataset.root={root}", "adapter=decoder_only", "optimizer.lr=0", "test=null",
                   "trainer.max_steps=1", f"outputs={tmp_path}", f"output={tmp_path / name}",
                   f"training.probe={windows}")  # fmt: skip
        assert run_script("train", *TINY, *options, *arguments, monkeypatch=monkeypatch) == 0
        trained = load_file(tmp_path / name / "model.safetensors")
        return trained["out.conv.conv.weight"], json.loads((tmp_path / name / "metrics.json").read_text())

    fitted, again = start("fitted", f"pretrained={base}")[0], start("again", f"pretrained={base}")[0]
    torch.testing.assert_close(fitted, again, rtol=0, atol=0)
    drawn = start("drawn", f"pretrained={base}", windows=0)[0]
    assert (fitted - drawn).norm() > 0.1 * drawn.norm()
    known = start("known", f"pretrained={same}")[0]  # the base has this layer already
    torch.testing.assert_close(known, load_file(same)["out.conv.conv.weight"])
