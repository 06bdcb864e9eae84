"""How well does one predicted structure agree with its reference? Empty masks have a written policy.

| reference | prediction | status      | Dice | distances                               |
|-----------|------------|-------------|------|-----------------------------------------|
| present   | present    | scored      | yes  | yes                                     |
| present   | empty      | missed      | 0    | none: counted as missed, never as 0 mm  |
| empty     | present    | false_alarm | 0    | none                                    |
| empty     | empty      | absent      | none: left out of every mean, counted | none   |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


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
        sensitivity, precision: |P and R| / |R| and |P and R| / |P|.
    """

    status: str
    dice: float | None
    hd95_mm: float | None
    msd_mm: float | None
    surface_dice: float | None
    volume_ml: float
    reference_ml: float
    sensitivity: float | None
    precision: float | None


def score(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing: Sequence[float],
    *,
    surface_tolerance_mm: float = 1.0,
) -> Score:
    """Compare two masks of the same grid.

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
        return Score(
            status=status, dice=None if status == "absent" else 0.0, hd95_mm=None, msd_mm=None, surface_dice=None,
            sensitivity=0.0 if present else None, precision=0.0 if predicted else None, **volumes,
        )  # fmt: skip
    overlap = int((prediction & reference).sum())
    forth, back = surface_distances(prediction, reference, spacing)
    both = np.concatenate([forth, back])
    return Score(
        status="scored",
        dice=2 * overlap / (predicted + present),
        hd95_mm=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        msd_mm=float(both.mean()),
        surface_dice=float((both <= surface_tolerance_mm).mean()),
        sensitivity=overlap / present,
        precision=overlap / predicted,
        **volumes,
    )


def surface_distances(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from each surface voxel of `a` to the surface of `b`, and back; both masks not empty.

    A surface voxel is a voxel of the mask with a face neighbour outside it; outside the volume counts as outside.
    Everything is computed in the bounding box of the two masks, which changes no distance between them.
    """
    boxes = ndimage.find_objects((a | b).astype(np.uint8))[0]
    a, b = a[boxes], b[boxes]
    surface_a, surface_b = (mask & ~ndimage.binary_erosion(mask) for mask in (a, b))
    to_b = ndimage.distance_transform_edt(~surface_b, sampling=spacing)
    to_a = ndimage.distance_transform_edt(~surface_a, sampling=spacing)
    return to_b[surface_a], to_a[surface_b]


def dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float | None:
    """Dice alone, for validation during training: None where both masks are empty."""
    total = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / total if total else None
