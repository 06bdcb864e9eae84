from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcurlora_seg.data.augmentation import Augmentation
from tcurlora_seg.data.augmentation.crop import cut, foreground_spots
from tcurlora_seg.data.augmentation.spatial import swap
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import generator

STILL = {"foreground": None, "mirror_axes": [], "scale": 0.0, "shift": 0.0}
SIZE = (12, 14, 10)


def volume(size: tuple[int, ...] = SIZE) -> tuple[Tensor, Tensor]:
    """Every voxel has an intensity of its own; one class in a corner, another in the middle."""
    image = torch.arange(1, 1 + size[0] * size[1] * size[2], dtype=torch.float32).reshape(1, *size)
    label = torch.zeros(1, *size, dtype=torch.uint8)
    label[0, 0, 0, 0] = 1
    label[0, 5:7, 6:8, 5:7] = 2
    return image, label


def draw(
    augmentation: Augmentation, seed: int, crop: tuple[int, ...] = (6, 6, 6), pairs: tuple = ()
) -> tuple[Tensor, Tensor]:
    image, label = volume()
    return augmentation(image, label, foreground_spots(label), crop=crop, mirror_pairs=pairs, g=generator("test", seed))


def test_the_same_generator_gives_the_same_sample_and_another_gives_another() -> None:
    first, again, other = (draw(Augmentation(), seed) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_image_and_label_move_together() -> None:
    image, label = volume()
    for seed in range(40):
        crop, target = draw(Augmentation(scale=0.0, shift=0.0), seed)
        place = crop.long().flatten() - 1
        assert torch.equal(image.flatten()[place], crop.flatten())
        assert torch.equal(label.flatten()[place], target.flatten())


def test_uniform_crops_reach_every_corner_and_no_further() -> None:
    crops = [draw(Augmentation(**STILL), seed)[0] for seed in range(300)]
    first = {int(crop[0, 0, 0, 0]) for crop in crops}
    assert len(first) > 150
    assert {1, int(volume()[0][0, 6, 8, 4])} <= first  # the lowest and the highest corner


def test_the_foreground_share_is_the_share_of_crops_with_the_target() -> None:
    always = [draw(Augmentation(**{**STILL, "foreground": 1.0}), seed)[1] for seed in range(100)]
    assert all(bool(label.any()) for label in always)
    rare = sum(bool((label == 1).any()) for label in always)
    assert rare > 30  # drawn by class, not by voxel: 1 of 9 voxels, but half of the draws
    never = [draw(Augmentation(**{**STILL, "foreground": 0.0}), seed)[0] for seed in range(100)]
    uniform = [draw(Augmentation(**STILL), seed)[0] for seed in range(100)]
    assert len({float(x[0, 0, 0, 0]) for x in never}) > 50 and len(uniform) == 100


def test_a_case_without_foreground_is_cropped_uniformly() -> None:
    image, label = volume()
    label.zero_()
    augmentation = Augmentation(foreground=1.0)
    result, _ = augmentation(
        image, label, foreground_spots(label), crop=(6, 6, 6), mirror_pairs=(), g=generator("test", 0)
    )
    assert result.shape == (1, 6, 6, 6)


def test_each_axis_is_mirrored_half_of_the_time_and_no_other() -> None:
    still = Augmentation(**{**STILL, "mirror_axes": [0, 2]})
    image, _ = volume()
    flips = []
    for seed in range(200):
        whole, _ = draw(still, seed, crop=SIZE)
        flips.append([bool(whole[0, 0, 0, 0] != whole[0].amin()) for _ in (0,)])
        assert any(torch.equal(whole, image.flip(axes)) for axes in ([], [1], [3], [1, 3]))
    assert 110 < sum(f[0] for f in flips) < 190  # 3 of 4


def test_mirroring_left_and_right_swaps_the_classes_of_a_pair() -> None:
    _, label = volume()
    swapped = {False: 0, True: 0}
    for seed in range(40):
        crop, target = draw(Augmentation(**{**STILL, "mirror_axes": [0, 1]}), seed, crop=SIZE, pairs=((1, 2),))
        left_right = bool(crop[0, 0, 0, 0] > crop[0, -1, 0, 0])
        assert int((target == 2).sum()) == (1 if left_right else 8)
        swapped[left_right] += 1
    assert min(swapped.values()) > 5
    assert torch.equal(swap(swap(label, [(1, 2)]), [(1, 2)]), label)


def test_scale_and_shift_are_one_draw_a_volume() -> None:
    still, _ = draw(Augmentation(**STILL), 0, crop=SIZE)
    factors, offsets = [], []
    for seed in range(100):
        result, _ = draw(Augmentation(**{**STILL, "scale": 0.1, "shift": 0.1}), seed, crop=SIZE)
        x, y = still.flatten().double(), result.flatten().double()
        factor = ((y[-1] - y[0]) / (x[-1] - x[0])).item()
        offset = (y[0] - factor * x[0]).item()
        torch.testing.assert_close(y, factor * x + offset, rtol=1e-5, atol=1e-4)
        factors.append(factor)
        offsets.append(offset)
    assert 0.9 <= min(factors) < 0.92 and 1.08 < max(factors) <= 1.1
    assert -0.101 <= min(offsets) < -0.08 and 0.08 < max(offsets) <= 0.101


def test_a_smaller_volume_is_padded_with_zeros_around_it() -> None:
    image, _label = volume()
    crop, target = draw(Augmentation(**STILL), 0, crop=(16, 14, 6))
    assert crop.shape == (1, 16, 14, 6) and target.shape == (1, 16, 14, 6)
    assert not crop[:, :2].any() and not crop[:, 14:].any()
    assert torch.equal(crop[:, 2:14] - crop[:, 2:3, :1, :1], image[..., :6] - image[:, :1, :1, :1])


def test_cutting_gives_a_copy() -> None:
    image, _ = volume()
    cut(image, [0, 0, 0], SIZE).zero_()
    assert image.all()


@pytest.mark.parametrize(
    ("changes", "words"), [({"foreground": 1.5}, "foreground=1.5"), ({"mirror_axes": [3]}, "mirror_axes")]
)
def test_arguments_out_of_range_are_one_line(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Augmentation(**changes)
