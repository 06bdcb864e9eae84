"""Voxel sizes of the training images, and whether a new image has one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np

from tcurlora_seg.data.notes import note
from tcurlora_seg.data.preparation import Preparation

_TOLERANCE = 0.05


@dataclass(frozen=True)
class TrainingSpacing:
    """Voxel sizes in mm along right, anterior and superior, over the training images."""

    smallest: tuple[float, ...]
    median: tuple[float, ...]
    largest: tuple[float, ...]

    @property
    def limits(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Least and largest size along each axis that counts as one of the training images'."""
        return tuple(s * (1 - _TOLERANCE) for s in self.smallest), tuple(s * (1 + _TOLERANCE) for s in self.largest)

    def covers(self, spacing: Sequence[float]) -> bool:
        """Whether a voxel size lies, within 5 %, between the smallest and the largest along each axis."""
        return self.fit(spacing) == list(spacing)

    def fit(self, spacing: Sequence[float]) -> list[float]:
        """Voxel size to resample to: the median along each axis where the size is not covered."""
        axes = zip(spacing, *self.limits, self.median, strict=True)
        return [size if low <= size <= high else middle for size, low, high, middle in axes]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fitting(preparation: Preparation, spacing: TrainingSpacing | None, affine: np.ndarray) -> Preparation:
    """Preparation for an image, which resamples it where its voxel size is unlike those of the training images.

    Along such an axis it resamples to their median; not where the preparation resamples anyway. Either is noted.

    Args:
        preparation: of the training images.
        spacing: of the training images; None where nobody knows, or for those themselves.
        affine: the image's, from voxels to RAS mm.
    """
    if spacing is None:
        return preparation
    sizes = ras_spacing(affine).tolist()
    target = preparation.spacing or spacing.fit(sizes)
    if all(abs(size / other - 1) <= _TOLERANCE for size, other in zip(sizes, target, strict=True)):
        return preparation
    own, theirs = (" x ".join(f"{size:.3g}" for size in s) for s in (sizes, target))
    note("resampled", f"voxels of {own} mm are resampled to the training images' {theirs} mm, and back")
    return replace(preparation, spacing=target)


def read_spacing(raw: Mapping[str, Sequence[float]] | None) -> TrainingSpacing | None:
    """Spacing as `as_dict` wrote it; None for a model file without it."""
    return None if raw is None else TrainingSpacing(*(tuple(raw[k]) for k in ("smallest", "median", "largest")))


def training_spacing(sizes: Iterable[Sequence[float]]) -> TrainingSpacing:
    """Range of some voxel sizes, each along right, anterior and superior."""
    rows = np.stack([np.asarray(size, dtype=np.float64) for size in sizes]).round(4)
    return TrainingSpacing(*(tuple(row.tolist()) for row in (rows.min(0), np.median(rows, axis=0), rows.max(0))))


def ras_spacing(affine: np.ndarray) -> np.ndarray:
    """Voxel sizes in mm in the order of the axes after turning to RAS."""
    return nib.affines.voxel_sizes(affine)[np.argsort(nib.io_orientation(affine)[:, 0])]
