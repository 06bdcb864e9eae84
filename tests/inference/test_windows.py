"""Sliding windows: they cover everything, mirroring averages what it says and swaps paired classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tcurlora_seg.errors import UserError
from tcurlora_seg.inference import windows as inference
from tcurlora_seg.inference.windows import Predictor, count_windows, labels


class Voxelwise(nn.Module):
    """Logits that depend on the voxel alone, so that windows cannot matter."""

    def __init__(self, asymmetry: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.asymmetry = asymmetry

    def forward(self, x: Tensor) -> Tensor:
        ramp = self.asymmetry * (torch.arange(x.shape[2]).view(1, 1, -1, 1, 1) - 0.6 * torch.arange(x.shape[4]))
        return torch.cat([torch.zeros_like(x), self.scale * x + ramp, -self.scale * x], 1)


IMAGE = torch.randn(1, 19, 8, 13, generator=torch.Generator().manual_seed(0))


def test_windows_blend_into_what_the_network_says_of_each_voxel() -> None:
    network = Voxelwise()
    expected = torch.softmax(network(IMAGE[None]), 1)[0]
    for window in [(8, 8, 8), (32, 32, 32)]:  # smaller and larger than the volume
        probabilities = Predictor(network, window=window)(IMAGE)
        assert probabilities.shape == (3, 19, 8, 13)
        torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-5)


def test_mirroring_averages_over_all_combinations_of_axes_and_swaps_paired_classes() -> None:
    network = Voxelwise(asymmetry=0.1)

    def once(axes: list[int]) -> Tensor:
        flipped = torch.softmax(network(IMAGE[None].flip([a + 2 for a in axes])), 1).flip([a + 2 for a in axes])[0]
        return flipped[[0, 2, 1]] if 0 in axes else flipped

    expected = (once([]) + once([0]) + once([1]) + once([0, 1])) / 4
    whole = IMAGE.shape[1:]  # one window without padding, since the ramp counts from its edge
    predictor = Predictor(network, window=whole, mirror_axes=(0, 1), mirror_pairs=((1, 2),))
    torch.testing.assert_close(predictor(IMAGE), expected.detach(), atol=1e-5, rtol=1e-5)
    plain = Predictor(network, window=whole)
    assert not torch.allclose(plain(IMAGE), expected.detach(), atol=1e-3)


def test_classes_may_follow_another_networks_order() -> None:
    predictor = Predictor(Voxelwise(asymmetry=0.1), window=(8, 8, 8), mirror_axes=(0,), mirror_pairs=((1, 2),))
    expected = predictor(IMAGE)
    predictor.order = (0, 2, 1)
    assert torch.equal(predictor(IMAGE), expected[[0, 2, 1]])


@pytest.mark.parametrize("shape", [(19, 8, 13), (45, 9, 11), (3, 20, 8)])
def test_windows_are_counted_beforehand(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(inference, "_SLAB_BYTES", 1)
    one = Predictor(Voxelwise(), window=(8, 8, 8), overlap=0.25, mirror_axes=(0, 2), classes=3)
    two = Predictor(Voxelwise(), window=(12, 8, 8), classes=3)
    done: list[int] = []
    begun: list[tuple[int, ...]] = []
    for predictor in (one, two):
        predictor.begin, predictor.tick = lambda s: begun.append(tuple(s)), done.append
    labels([one, two], torch.zeros(1, *shape))
    assert begun == [shape] and sum(done) == count_windows([one, two], shape)


def test_inference_switches_dropout_off_and_back_on() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Dropout(0.5)).train()
    predictor = Predictor(network, window=(8, 8, 8))
    assert torch.equal(predictor(IMAGE), predictor(IMAGE))
    assert network.training


@pytest.mark.parametrize("mirror_axes", [(), (0,), (0, 2)])
@pytest.mark.parametrize("overlap", [0.5, 0.25, 0.0])
def test_a_volume_in_slabs_gives_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, mirror_axes: tuple[int, ...], overlap: float
) -> None:
    """A network that sees where in the window a voxel lies, so that another window would be noticed."""
    image = torch.randn(1, 45, 9, 11, generator=torch.Generator().manual_seed(1))
    predictor = Predictor(Voxelwise(asymmetry=0.1), window=(8, 8, 8), overlap=overlap, mirror_axes=mirror_axes,
                          mirror_pairs=((1, 2),), classes=3)  # fmt: skip
    whole = predictor(image)
    assert torch.equal(labels([predictor], image), whole.argmax(0).to(torch.uint8))
    monkeypatch.setattr(inference, "_SLAB_BYTES", 1)
    calls: list[tuple[int, int]] = []
    rows = predictor.rows
    monkeypatch.setattr(predictor, "rows", lambda i, first, last: calls.append((first, last)) or rows(i, first, last))
    torch.testing.assert_close(predictor(image), whole, atol=1e-6, rtol=1e-6)
    assert torch.equal(labels([predictor], image), whole.argmax(0).to(torch.uint8))
    assert calls[:6] == [(0, 8), (8, 16), (16, 24), (24, 32), (32, 40), (40, 45)]


class Halves(Voxelwise):
    """Names the half by where a voxel lies, as a network that knows left from right does."""

    def forward(self, x: Tensor) -> Tensor:
        left = torch.where(torch.arange(16) < 8, 9.0, -9.0).view(1, 1, 16, 1, 1).expand(x.shape)
        return torch.cat([torch.zeros_like(x), left, -left], 1)


def test_mirroring_does_not_blur_left_and_right_into_each_other() -> None:
    image = torch.zeros(1, 16, 8, 8)
    swapped = Predictor(Halves(), window=(16, 8, 8), mirror_axes=(0, 1), mirror_pairs=((1, 2),), classes=3)(image)
    assert float(swapped[1, :8].min()) > 0.99 and float(swapped[2, 8:].min()) > 0.99
    blurred = Predictor(Halves(), window=(16, 8, 8), mirror_axes=(0, 1), classes=3)(image)
    assert float(blurred[1, :8].max()) < 0.51


class Formats(nn.Module):
    """Remembers the formats that its products come in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.seen = nn.Conv3d(1, 2, 1), set[torch.dtype]()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.seen.add(y.dtype)
        return y


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize(
    ("precision", "expected"), [("auto", torch.float32), ("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)]
)
def test_products_are_in_the_format_that_was_asked_for_whatever_is_set_outside(
    precision: str, expected: torch.dtype, outside: bool
) -> None:
    network = Formats()
    with torch.autocast("cpu", torch.bfloat16, enabled=outside):  # as in Lightning's validation
        found = Predictor(network, window=(8, 8, 8), precision=precision)(IMAGE)
    assert network.seen == {expected} and found.dtype == torch.float32
    torch.testing.assert_close(found, network.conv(IMAGE[None]).softmax(1)[0].detach(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp8"}, "precision=fp8: choose auto, 32-true or bf16-mixed"),
        ({"overlap": 1.0}, "0 to below 1"),
        ({"overlap": -0.1}, "0 to below 1"),
        ({"batch_size": 0}, "at least 1 window"),
        ({"shift": -1}, "0 or more voxels"),
    ],
)
def test_settings_that_cannot_be_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Predictor(Voxelwise(), window=(8, 8, 8), **options)


@pytest.mark.parametrize(("mirror_axes", "shift"), [((), 2), ((0,), 2), ((), 9)])
def test_a_volume_smaller_than_the_window_is_seen_from_several_places(mirror_axes: tuple[int, ...], shift: int) -> None:
    network, window, image = Voxelwise(asymmetry=0.3), (16, 8, 10), IMAGE[:, :9, :, :6]  # room for 7, 0 and 4 voxels

    def at(place: tuple[int, int, int], axes: list[int]) -> Tensor:
        x, _, z = place
        padded = nn.functional.pad(image.flip([a + 1 for a in axes]), (z, 4 - z, 0, 0, x, 7 - x))
        found = torch.softmax(network(padded[None]), 1)[0, :, x : x + 9, :, z : z + 6]
        return found.flip([a + 1 for a in axes])

    by = min(shift, 3)
    moved = [(3, 0, 2), (3 - by, 0, 2), (3 + min(shift, 4), 0, 2), (3, 0, 2 - min(shift, 2)), (3, 0, 2 + min(shift, 2))]
    copies = [at(place, axes) for place in moved for axes in ([], [0])[: 1 + len(mirror_axes)]]
    predictor = Predictor(network, window=window, mirror_axes=mirror_axes, shift=shift, classes=3)
    done: list[int] = []
    predictor.tick = done.append
    torch.testing.assert_close(predictor(image), torch.stack(copies).mean(0).detach(), atol=1e-5, rtol=1e-5)
    assert sum(done) == count_windows([predictor], image.shape[1:]) == len(copies)


def test_a_volume_that_fills_the_window_is_seen_as_ever() -> None:
    still, moved = (Predictor(Voxelwise(asymmetry=0.3), window=(8, 8, 8), shift=shift) for shift in (0, 4))
    assert torch.equal(still(IMAGE), moved(IMAGE))
