"""Agreement of a predicted structure with its reference, and a policy for empty masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

POLICY = {
    "scored": "present in reference and prediction: everything is measured",
    "missed": "present in the reference alone: Dice and surface Dice 0; no distance, but counted, never taken for 0 mm",
    "false_alarm": "present in the prediction alone: Dice and surface Dice 0, no distance",
    "absent": "in neither: left out of every mean and counted",
}
"""Statuses in words, for `summary.json`."""


@dataclass(frozen=True)
class Score:
    """Agreement of one structure in one case; None where a figure is not defined.

    Attributes:
        status: scored, missed, false_alarm or absent.
        dice: 2 |P and R| / (|P| + |R|).
        hd95_mm: the larger of the two directed 95th percentiles of surface distances (Huttenlocher 1993).
        msd_mm: mean of all distances of both surfaces to the other.
        surface_dice: share of both surfaces within the tolerance of the other (Nikolov 2018, voxel faces uncounted).
        volume_ml, reference_ml: volumes of prediction and reference.
        volume_error_ml: the first minus the second; None where both are absent.
        sensitivity, precision: |P and R| / |R| and |P and R| / |P|.
    """

    status: str
    dice: float | None
    hd95_mm: float | None
    msd_mm: float | None
    surface_dice: float | None
    volume_ml: float
    reference_ml: float
    volume_error_ml: float | None
    sensitivity: float | None
    precision: float | None


def score_structures(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    structures: Mapping[str, Sequence[int]],
    spacing: Sequence[float],
    *,
    surface_tolerance_mm: float = 1.0,
) -> dict[str, Score]:
    """Scores of each structure, from two label maps on one grid.

    Args:
        prediction: class indices (X, Y, Z), 0 for background.
        reference: class indices (X, Y, Z).
        structures: scored structure -> class indices whose union it is.
        spacing: voxel size along each axis in mm.
        surface_tolerance_mm: see `score`.
    """
    count = max(int(prediction.max()), int(reference.max()))
    boxes = [ndimage.find_objects(labels, max_label=count) for labels in (prediction, reference)]
    scores = {}
    for name, classes in structures.items():
        box = _around([found[c - 1] for found in boxes for c in classes if c <= count])
        ours, theirs = (np.isin(labels[box], classes) for labels in (prediction, reference))
        scores[name] = score(ours, theirs, spacing, surface_tolerance_mm=surface_tolerance_mm)
    return scores


def _around(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    """Bounding box of boxes, one voxel where there are none; voxels outside change no figure."""
    found = [box for box in boxes if box is not None]
    if not found:
        return (slice(0, 1),) * 3
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*found, strict=True))


def score(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing: Sequence[float],
    *,
    surface_tolerance_mm: float = 1.0,
) -> Score:
    """Scores of two masks on one grid.

    Args:
        prediction: (X, Y, Z).
        reference: (X, Y, Z).
        spacing: voxel size along each axis in mm.
        surface_tolerance_mm: distance up to which a surface voxel counts as right.
    """
    voxel_ml = float(np.prod(spacing)) / 1000.0
    predicted, present = int(prediction.sum()), int(reference.sum())
    volumes = {"volume_ml": predicted * voxel_ml, "reference_ml": present * voxel_ml}
    if not (predicted and present):
        status = "missed" if present else "false_alarm" if predicted else "absent"
        overlap = None if status == "absent" else 0.0
        return Score(
            status=status, dice=overlap, hd95_mm=None, msd_mm=None, surface_dice=overlap,
            volume_error_ml=None if status == "absent" else (predicted - present) * voxel_ml,
            sensitivity=0.0 if present else None, precision=0.0 if predicted else None, **volumes,
        )  # fmt: skip
    common = int((prediction & reference).sum())
    forth, back = surface_distances(prediction, reference, spacing)
    both = np.concatenate([forth, back])
    return Score(
        status="scored",
        dice=2 * common / (predicted + present),
        hd95_mm=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        msd_mm=float(both.mean()),
        surface_dice=float((both <= surface_tolerance_mm).mean()),
        volume_error_ml=(predicted - present) * voxel_ml,
        sensitivity=common / present,
        precision=common / predicted,
        **volumes,
    )


def surface_distances(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from each surface voxel of `a` to the surface of `b`, and back.

    A surface voxel is a voxel of the mask with a face neighbour outside of it or of the volume.

    Args:
        a: a mask (X, Y, Z), not empty.
        b: another one, not empty.
        spacing: voxel size along each axis in mm.
    """
    box = ndimage.find_objects((a | b).astype(np.uint8))[0]
    surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (a, b)]
    # A map of distances costs by the box, and a few stray voxels can stretch that over the whole head
    if surfaces[0].size > 200 * sum(int(surface.sum()) for surface in surfaces):
        points = [np.argwhere(surface) * np.asarray(spacing, dtype=np.float64) for surface in surfaces]
        return KDTree(points[1]).query(points[0])[0], KDTree(points[0]).query(points[1])[0]
    to_a, to_b = (ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
    return to_b[surfaces[0]], to_a[surfaces[1]]


def dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float | None:
    """Dice of two masks; None where both are empty.

    Args:
        prediction: (X, Y, Z).
        reference: (X, Y, Z).
    """
    total = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / total if total else None
