from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from tcurlora_seg.data.augmentation.crop import foreground_spots
from tcurlora_seg.data.augmentation.strong import StrongAugmentation
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import generator

SIZE = (28, 32, 24)
STILL: dict[str, Any] = {"spatial": 0.0, "intensity": 0.0, "mirror_axes": []}


def volume() -> tuple[Tensor, Tensor]:
    """A bright blob of class 2 in an even brain, class 1 a single voxel, nothing at the rim."""
    label = torch.zeros(1, *SIZE, dtype=torch.uint8)
    label[0, 10:18, 12:22, 8:16] = 2
    label[0, 5, 6, 5] = 1
    image = torch.zeros(1, *SIZE)
    image[0, 3:-3, 3:-3, 3:-3] = 1 + 0.1 * torch.rand(22, 26, 18, generator=torch.Generator().manual_seed(0))
    return image + 3.0 * (label == 2), label


def draw(seed: int, crop: tuple[int, ...] = (20, 20, 20), pairs: tuple = (), **changes: Any) -> tuple[Tensor, Tensor]:
    image, label = volume()
    augmentation = StrongAugmentation(**changes)
    spots = foreground_spots(label)
    return augmentation(image, label, spots, crop=crop, mirror_pairs=pairs, g=generator("test", seed))


def test_the_same_generator_gives_the_same_sample_and_another_gives_another() -> None:
    first, again, other = (draw(seed, intensity=1.0, spatial=1.0) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == first[1].shape == (1, 20, 20, 20)
    assert first[0].dtype == torch.float32 and first[1].dtype == torch.uint8


def test_image_and_label_are_bent_together() -> None:
    for seed in range(20):
        image, label = draw(seed, spatial=1.0, intensity=0.0, rotation=30.0, elastic=2.0)
        bright = image > 2.5
        both = int((bright & (label == 2)).sum())
        assert both > 0.9 * int(bright.sum()) and both > 0.9 * int((label == 2).sum())


def test_the_voxel_that_a_crop_is_drawn_for_stays_in_it_however_the_crop_is_bent() -> None:
    found = [draw(seed, crop=(6, 6, 6), foreground=1.0, spatial=1.0, rotation=60.0)[1] for seed in range(200)]
    assert all(bool(label.any()) for label in found)
    assert sum(bool((label == 1).any()) for label in found) > 60  # a single voxel, in half of the draws


def test_a_smaller_volume_lies_anywhere_in_the_crop() -> None:
    places = set()
    for seed in range(60):
        image, label = draw(seed, crop=(32, 32, 32), **STILL)
        inside = torch.nonzero(image[0])
        assert len(inside) == 22 * 26 * 18 and int((label == 2).sum()) == 8 * 10 * 8
        places.add(tuple(inside[0].tolist()))
    assert {p[0] for p in places} == set(range(3, 8))  # 32 - 28 voxels to spare
    assert len(places) > 20


def test_what_is_outside_stays_outside() -> None:
    for seed in range(20):
        still, _ = draw(seed, **STILL)
        changed, _ = draw(seed, **{**STILL, "intensity": 1.0})
        assert torch.equal(still == 0, changed == 0)
        assert not torch.equal(still, changed)


def test_every_strength_of_zero_leaves_its_change_out() -> None:
    off = {name: 0.0 for name in ("rotation", "scaling", "elastic", "bias_field", "gamma", "contrast", "brightness",
                                  "blur", "low_resolution", "noise")}  # fmt: skip
    still = draw(3, **STILL)
    nothing = draw(3, **{**STILL, **off, "intensity": 1.0})
    assert all(torch.equal(a, b) for a, b in zip(still, nothing, strict=True))
    for name in ("bias_field", "gamma", "contrast", "brightness", "blur", "low_resolution", "noise"):
        alone = {**off, name: 2.0 if name == "low_resolution" else 0.5}
        assert not torch.equal(draw(3, **{**STILL, **alone, "intensity": 1.0})[0], still[0]), name


def test_mirroring_left_and_right_swaps_the_classes_of_a_pair() -> None:
    sizes = {int((draw(seed, crop=SIZE, pairs=((1, 2),), **{**STILL, "mirror_axes": [0]})[1] == 1).sum())
             for seed in range(20)}  # fmt: skip
    assert sizes == {1, 8 * 10 * 8}


def test_channels_are_changed_each_on_its_own() -> None:
    image, label = volume()
    both = torch.cat([image, image])
    result, _ = StrongAugmentation(**{**STILL, "intensity": 0.5})(
        both, label, foreground_spots(label), crop=SIZE, mirror_pairs=(), g=generator("test", 1)
    )
    assert not torch.equal(result[0], result[1])


def test_samples_cost_less_than_a_fifth_of_what_a_step_of_the_small_network_takes() -> None:
    """A step with two samples of 64^3 takes 0.4 s of one core; its two samples 0.03 s, and here less than 0.08 s."""
    image = torch.randn(1, 80, 80, 80)
    label = (image > 2.5).to(torch.uint8)
    spots, augmentation, threads = foreground_spots(label), StrongAugmentation(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds: list[float] = []
        for seed in range(12):
            started = time.process_time()
            augmentation(image, label, spots, crop=(64, 64, 64), mirror_pairs=(), g=generator("time", seed))
            seconds.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    assert sum(sorted(seconds)[:-2]) / 10 < 0.04


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"foreground": 1.5}, "foreground=1.5"), ({"mirror_axes": [3]}, "mirror_axes"), ({"noise": -0.1}, "noise=-0.1"),
     ({"spatial": 1.2}, "spatial=1.2: expected a share")],
)  # fmt: skip
def test_arguments_out_of_range_are_one_line(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        StrongAugmentation(**changes)
