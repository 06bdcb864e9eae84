"""Voxel grids: affines from voxel indices to RAS millimetres."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np

from tcurlora_seg.data.notes import note
from tcurlora_seg.errors import UserError

AXES = ("left-right", "back-front", "bottom-top")
"""The axes of the body, in RAS order."""
VOXEL_MM = (0.01, 20.0)
"""Sizes outside this are a mistake of units or of a header, whatever was scanned."""
SAME_GRID = 0.05
"""How many voxels apart the corners of two volumes may lie that share a grid: other tools round their headers."""


def check_affine(affine: np.ndarray, source: object, unit: str = "mm") -> None:
    """Check that an affine to RAS mm is that of a volume: asked of whatever is trained on, scored or predicted.

    Args:
        affine: (4, 4).
        source: the file, for messages.
        unit: of length in its header.

    Raises:
        UserError: it is not finite or flattens the volume; voxels of impossible size; axes that are not at right
            angles to each other.
    """
    if not np.isfinite(affine).all():
        raise UserError(f"{source}: its affine holds NaN or infinite values: mend the header")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * np.prod(sizes):
        raise UserError(f"{source}: its affine flattens the volume: mend the header")
    if not all(VOXEL_MM[0] <= size <= VOXEL_MM[1] for size in sizes):
        shown = " x ".join(f"{size:g}" for size in sizes) + " mm" + ("" if unit == "mm" else f", its header in {unit}")
        raise UserError(f"{source}: voxels of {shown}; expected {VOXEL_MM[0]} to {VOXEL_MM[1]} mm: mend the header")
    axes = affine[:3, :3] / sizes
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise UserError(f"{source}: its axes are not at right angles to each other: resample it to a straight grid")


def same_grid(shape: Sequence[int], affine: np.ndarray, other: np.ndarray, names: str) -> bool:
    """Whether two volumes of one shape lie on one grid: no corner is more than `SAME_GRID` voxels apart.

    Args:
        shape: of both.
        affine: of the first.
        other: affine of the second.
        names: of the two files, for the note on headers that do not agree to the last digit.
    """
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in shape), 1]
    apart = np.linalg.norm(corners @ (affine - other)[:3].T, axis=1).max()
    voxels = float(apart / np.linalg.norm(affine[:3, :3], axis=0).min())
    if SAME_GRID >= voxels > 1e-3:
        note("same grid", f"{names} are {voxels:.2g} voxels apart by their headers, which is taken for rounding")
    return voxels <= SAME_GRID


def turn_to(volume: np.ndarray, affine: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels with axes in the order and direction of another affine's, and their affine then.

    MINC stores z first and NIfTI x first; no voxel is interpolated.

    Args:
        volume: (X, Y, Z).
        affine: of the volume.
        other: affine whose axes it takes.
    """
    orientation = nib.io_orientation
    change = nib.orientations.ornt_transform(orientation(affine), orientation(other))
    turned = nib.orientations.apply_orientation(volume, change)
    return turned, affine @ nib.orientations.inv_ornt_aff(change, volume.shape)


def is_reversed(labels: np.ndarray, affine: np.ndarray, axis: int, lower: int, upper: int) -> bool:
    """Whether two structures lie in each other's place along an axis; not where one is missing.

    Args:
        labels: (X, Y, Z).
        affine: to RAS mm.
        axis: 0 left-right, 1 back-front, 2 bottom-top.
        lower: value of the structure that lies left, behind or below.
        upper: value of the other one.
    """
    ends = [np.argwhere(labels == value) @ affine[axis, :3] for value in (lower, upper)]
    return all(len(end) for end in ends) and bool(ends[0].mean() >= ends[1].mean())


def centred_affine(shape: Sequence[int], zooms: Sequence[float], axes: str) -> np.ndarray:
    """Affine of a volume whose centre is the origin.

    Args:
        shape: of the volume.
        zooms: voxel size, mm.
        axes: where the volume's axes run to, such as "LAS".
    """
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(nib.orientations.axcodes2ornt(axes)):
        affine[int(world), axis] = sign * abs(zooms[axis])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
