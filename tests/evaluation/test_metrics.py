"""Scores against an independent computation with SimpleITK, and the policy for empty masks."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from tcurlora_seg.evaluation.metrics import POLICY, dice, score, score_structures

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
    ("prediction", "reference", "status", "expected_dice", "sensitivity", "precision"),
    [
        (False, True, "missed", 0.0, 0.0, None),
        (True, False, "false_alarm", 0.0, None, 0.0),
        (False, False, "absent", None, None, None),
    ],
)
def test_an_empty_mask_has_no_distance_and_no_overlap(
    prediction: bool, reference: bool, status: str, expected_dice: float | None,
    sensitivity: float | None, precision: float | None,
) -> None:  # fmt: skip
    full, empty = ball((6, 5, 4), 3), np.zeros(SHAPE, bool)
    result = score(full if prediction else empty, full if reference else empty, (1.0, 1.0, 1.0))
    assert (result.status, result.dice) == (status, expected_dice)
    assert (result.sensitivity, result.precision) == (sensitivity, precision)
    assert dice(*(full if there else empty for there in (prediction, reference))) == expected_dice
    assert result.hd95_mm is result.msd_mm is None
    assert result.surface_dice == expected_dice  # missing a hard case improves no mean


def brute_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> tuple[float, ...]:
    """HD95, mean distance and surface Dice from every pair of surface voxels, in float64."""

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(3):
            for shift in (1, -1):
                inner &= np.roll(padded, shift, axis)
        return np.argwhere((padded & ~inner)[1:-1, 1:-1, 1:-1]) * np.array(spacing)

    distances = np.sqrt(((surface(a)[:, None] - surface(b)[None]) ** 2).sum(-1))
    forth, back = distances.min(1), distances.min(0)
    both = np.concatenate([forth, back])
    return max(np.percentile(forth, 95), np.percentile(back, 95)), both.mean(), (both <= tolerance).mean()


def far_apart() -> tuple[np.ndarray, np.ndarray]:
    """Two small masks whose common box is the whole of a large volume, where points are searched, not mapped."""
    a, b = (np.zeros((60, 50, 40), bool) for _ in range(2))
    a[:3, :2, :4] = a[59, 49, 39] = True
    b[56:, 45:48, 30:33] = b[0, 2, 0] = True
    return a, b


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 1.5, 3.0)])
@pytest.mark.parametrize("name", [*PAIRS, "far apart"])
def test_distances_agree_with_those_of_every_pair_of_surface_voxels(name: str, spacing: tuple[float, ...]) -> None:
    a, b = PAIRS.get(name) or far_apart()
    ours = score(a, b, spacing, surface_tolerance_mm=1.7)
    assert (ours.hd95_mm, ours.msd_mm, ours.surface_dice) == pytest.approx(brute_force(a, b, spacing, 1.7), abs=1e-6)


def test_many_structures_score_as_each_by_itself() -> None:
    """Some missed, some false, some absent, some touching the border; unions as tumours have them."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 50, (6, 6, 6))
    reference = np.kron(coarse, np.ones((4, 4, 4), int)).astype(np.uint8)
    prediction = np.roll(reference, 1, axis=0)
    prediction[prediction == 7] = 0
    prediction[0, 0, 0] = 56
    prediction[3:5, 2:6, 2:7] = reference[4:6, 2:6, 2:7] = 57
    prediction[-1, -1, -1] = 58
    structures = {f"s{i}": (i,) for i in range(1, 59)} | {"union": (3, 9, 55), "all": tuple(range(1, 59))}
    scores = score_structures(prediction, reference, structures, (0.9, 1.0, 1.3), surface_tolerance_mm=2.0)
    assert list(scores) == list(structures)
    for name, classes in structures.items():
        masks = np.isin(prediction, classes), np.isin(reference, classes)
        assert scores[name] == score(*masks, (0.9, 1.0, 1.3), surface_tolerance_mm=2.0), name
    by_default = score_structures(prediction, reference, {"all": structures["all"]}, (0.9, 1.0, 1.3))["all"]
    assert by_default == score(prediction > 0, reference > 0, (0.9, 1.0, 1.3))
    assert {scores[name].status for name in ("s3", "s7", "s56", "s55")} == set(POLICY)


def test_volume_errors_are_signed_and_a_missed_structure_is_an_error_of_all_its_volume() -> None:
    small, large, empty = ball((6, 5, 4), 2), ball((6, 5, 4), 3), np.zeros(SHAPE, bool)
    errors = [score(a, b, (1, 1, 2)).volume_error_ml for a, b in ((small, large), (large, small), (empty, large))]
    difference, whole = (large.sum() - small.sum()) * 0.002, large.sum() * 0.002
    assert errors == pytest.approx([-difference, difference, -whole])
    assert score(empty, empty, (1, 1, 2)).volume_error_ml is None


def test_swapping_the_masks_changes_no_symmetric_measure() -> None:
    a, b = PAIRS["noise"]
    forth, back = score(a, b, (1.0, 2.0, 3.0)), score(b, a, (1.0, 2.0, 3.0))
    assert (forth.dice, forth.hd95_mm, forth.surface_dice) == (back.dice, back.hd95_mm, back.surface_dice)
    assert (forth.sensitivity, forth.precision) == (back.precision, back.sensitivity)
