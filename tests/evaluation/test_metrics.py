"""Scores against an independent computation with SimpleITK, and the policy for empty masks."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from tcurlora_seg.evaluation.metrics import dice, score

SHAPE = (14, 11, 9)


def ball(centre: tuple[int, ...], radius: float, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    grid = np.indices(shape)
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def one(*index: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[index] = True
    return mask


RANDOM = np.random.default_rng(0)
PAIRS = {
    "overlapping balls": (ball((6, 5, 4), 3), ball((7, 5, 4), 3)),
    "one voxel against a ball": (one(1, 1, 1), ball((9, 6, 5), 2)),
    "two single voxels": (one(0, 0, 0), one(13, 10, 8)),
    "touching the border": (ball((0, 0, 0), 4), ball((1, 0, 0), 5)),
    "everything": (np.ones(SHAPE, bool), ball((6, 5, 4), 3)),
    "identical": (ball((6, 5, 4), 3), ball((6, 5, 4), 3)),
    "noise": (RANDOM.random(SHAPE) > 0.7, RANDOM.random(SHAPE) > 0.8),
    "hollow": (ball((6, 5, 4), 4) & ~ball((6, 5, 4), 2), ball((6, 5, 4), 4)),
}


def literal(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float, float]:
    """HD95, mean surface distance and surface Dice at 1 mm by SimpleITK, on the whole padded grid."""
    images = []
    for mask in (a, b):
        image = SimpleITK.GetImageFromArray(np.pad(mask, 1).astype(np.uint8).transpose(2, 1, 0))
        image.SetSpacing(spacing)
        images.append(image)
    edges = [SimpleITK.BinaryContour(i, fullyConnected=False) for i in images]
    maps = [
        SimpleITK.SignedMaurerDistanceMap(e, squaredDistance=False, useImageSpacing=True, insideIsPositive=False)
        for e in edges
    ]
    arrays = [np.abs(SimpleITK.GetArrayFromImage(m)) for m in maps]
    there = arrays[1][SimpleITK.GetArrayFromImage(edges[0]) > 0]
    back = arrays[0][SimpleITK.GetArrayFromImage(edges[1]) > 0]
    both = np.concatenate([there, back])
    return max(np.percentile(there, 95), np.percentile(back, 95)), both.mean(), (both <= 1.0).mean()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 1.5, 3.0)])
@pytest.mark.parametrize("name", PAIRS)
def test_distances_agree_with_simpleitk(name: str, spacing: tuple[float, ...]) -> None:
    a, b = PAIRS[name]
    ours, (hd95, msd, surface) = score(a, b, spacing), literal(a, b, spacing)
    assert (ours.hd95_mm, ours.msd_mm) == pytest.approx((hd95, msd), abs=1e-5)  # SimpleITK computes in float32
    assert ours.surface_dice == pytest.approx(surface)


@pytest.mark.parametrize("name", PAIRS)
def test_overlaps_follow_their_definitions(name: str) -> None:
    a, b = PAIRS[name]
    ours, both = score(a, b, (1.0, 2.0, 3.0)), np.sum(a & b)
    assert ours.dice == pytest.approx(2 * both / (a.sum() + b.sum())) == dice(a, b)
    assert ours.sensitivity == pytest.approx(both / b.sum())
    assert ours.precision == pytest.approx(both / a.sum())
    assert ours.volume_ml == pytest.approx(a.sum() * 0.006)
    assert ours.reference_ml == pytest.approx(b.sum() * 0.006)


@pytest.mark.parametrize(
    ("prediction", "reference", "status", "expected_dice"),
    [(False, True, "missed", 0.0), (True, False, "false_alarm", 0.0), (False, False, "absent", None)],
)
def test_an_empty_mask_has_no_distance(
    prediction: bool, reference: bool, status: str, expected_dice: float | None
) -> None:
    full, empty = ball((6, 5, 4), 3), np.zeros(SHAPE, bool)
    result = score(full if prediction else empty, full if reference else empty, (1.0, 1.0, 1.0))
    assert (result.status, result.dice) == (status, expected_dice)
    assert result.hd95_mm is result.msd_mm is result.surface_dice is None


def test_swapping_the_masks_changes_no_symmetric_measure() -> None:
    a, b = PAIRS["noise"]
    forth, back = score(a, b, (1.0, 2.0, 3.0)), score(b, a, (1.0, 2.0, 3.0))
    assert (forth.dice, forth.hd95_mm, forth.surface_dice) == (back.dice, back.hd95_mm, back.surface_dice)
    assert (forth.sensitivity, forth.precision) == (back.precision, back.sensitivity)
