"""A head under a warp, at the voxels of a scanner's field of view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tcurlora_seg.data.simulate.appearance import blur
from tcurlora_seg.data.simulate.head import Head
from tcurlora_seg.data.simulate.splines import Axes, bounding_box
from tcurlora_seg.data.simulate.warp import Warp, sample


@dataclass(frozen=True)
class WarpedHead:
    """A warped head in the box of the field of view that holds its brain, or in all of it.

    Attributes:
        head: what is warped.
        axes: positions of the box's voxels, mm.
        grid: where they lie in the head, for `sample`.
        height: (X, Y, Z) distance above the commissures in the head, mm.
        t1: (X, Y, Z) intensity of the brain, or of the whole head.
        brain: (X, Y, Z) bool.
        box, shape: the box in the field of view, and that field's shape.
    """

    head: Head
    axes: Axes
    grid: Tensor
    height: Tensor
    t1: Tensor
    brain: Tensor
    box: tuple[slice, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, warp: Warp, field: Axes, spacing: float, *, skull: bool = False) -> WarpedHead:
        """The head as a warp shows it at the voxels of a field of view.

        Args:
            warp: with its head.
            field: positions of the voxels along each axis, mm.
            spacing: voxel size, mm.
            skull: everything with its skull, instead of the brain's box.
        """
        box = tuple(slice(len(axis)) for axis in field) if skull else _brain_box(warp, field, spacing)
        axes = [axis[s] for axis, s in zip(field, box, strict=True)]
        points = warp.points(axes)
        grid = warp.grid(points)
        t1, brain = sample(_seen(warp.head, spacing, skull), grid)
        return cls(warp.head, axes, grid, points[2], t1, brain > 0.5, box, tuple(len(axis) for axis in field))

    def labels(self) -> Tensor:
        """(X, Y, Z) uint8 of LPBA40's ids, 0 outside the brain."""
        return sample(self.head.labels, self.grid, mode="nearest")[0].to(torch.uint8) * self.brain

    def covered(self) -> Tensor:
        """(X, Y, Z) bool: the voxels that the scan of the head reaches; the others show nothing."""
        return (self.grid[0].abs() <= 1).all(-1)

    def whole(self, volume: Tensor) -> np.ndarray:
        """The volume in the whole field of view, 0 outside the box."""
        result = np.zeros(self.shape, dtype=volume.numpy().dtype)
        result[self.box] = volume.numpy()
        return result


def field_of_view(size: Sequence[int], spacing: float, signs: Sequence[int], centre: Tensor) -> list[Tensor]:
    """Positions in mm of the voxels of a field of view, along each axis.

    Args:
        size: of the field, mm.
        spacing: voxel size, mm.
        signs: -1 for an axis that runs to the left, back or down.
        centre: of the field, mm.
    """
    axes = []
    for n, sign, middle in zip(size, signs, centre.tolist(), strict=True):
        count = int(n / spacing + 0.5)
        axes.append(middle + sign * spacing * (torch.arange(count) - (count - 1) / 2))
    return axes


def _brain_box(warp: Warp, field: Axes, spacing: float) -> tuple[slice, ...]:
    skip = max(1, round(6 / spacing))
    coarse = sample(warp.head.brain, warp.grid(warp.points([axis[::skip] for axis in field])))[0] > 0
    return tuple(slice(max(0, first - 1) * skip, (last + 1) * skip + 1) for first, last in bounding_box(coarse))


@lru_cache(maxsize=1)
def _seen(head: Head, spacing: float, skull: bool) -> Tensor:
    """The head's T1, blurred as voxels of that size blur it, and its brain: (2, X, Y, Z)."""
    t1 = head.with_skull() if skull else head.t1
    return torch.stack([blur(t1[0], 0.4 * spacing if spacing > 1 else 0.0), head.brain[0]])
