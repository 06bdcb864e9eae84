"""Warps, from one anatomy to many: maps from a subject's space to the head, smooth and without folding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tcurlora_seg.data.simulate.head import Head
from tcurlora_seg.data.simulate.splines import Axes, Spline, bounding_box, placed, unfolded

_GROWTH = (-5.0, 9.0)
"""Range of the hippocampi's own growth."""

_FURTHEST = (-8.0, 14.0)
"""Bounds on a growth that is to reach a volume: no voxel's volume changes by more than a half, so nothing folds."""


@dataclass(frozen=True)
class Warp:
    """y = ψ(A (x − c) + c + t + u(x)): where in the head (y, mm) the subject's point x lies.

    u is a sum of B-splines, and ψ(z) = z − growth · ∇g(z) moves every point along the gradient of the target's
    blurred mask g: outward, so that the target shrinks in the subject, where growth is above 0. It may differ between
    left and right: between the hippocampi ∇g is next to 0.
    """

    head: Head
    linear: Tensor
    shift: Tensor
    bends: Sequence[Spline]
    growth: tuple[float, float]

    def points(self, axes: Axes) -> Tensor:
        """(3, X, Y, Z) positions in the head, mm, of the subject's voxels."""
        u = torch.stack([bend(axes) for bend in self.bends]).sum(0)
        x = [axis - c for axis, c in zip(axes, self.head.centre, strict=True)]
        points = placed(u, self.linear, self.head.centre + self.shift, x)
        if any(self.growth):
            near = points[(slice(None), *_box_of(points, *self.head.reach))]  # a view; elsewhere the gradient is 0
            near -= torch.where(near[0] < 0, *self.growth) * sample(self.head.inward, self.grid(near))
        return points

    def grid(self, points: Tensor) -> Tensor:
        """(1, X, Y, Z, 3) positions as `grid_sample` takes them, of (3, X, Y, Z) points in mm."""
        middle, half = (self.head.high + self.head.low) / 2, (self.head.high - self.head.low) / 2
        grid = points.new_empty((1, *points.shape[1:], 3))
        for i in range(3):
            grid[0, ..., 2 - i] = points[i].sub(middle[i]).div_(half[i])
        return grid


def draw_warp(head: Head, g: Generator, *, target: bool) -> Warp:
    """A plausible other person: rotations of a few degrees, sizes within 8 %, bends of about 4 mm and 1.5 mm.

    The bends are scaled down where they would fold, see `unfolded`.

    Args:
        head: to be warped.
        g: source of the draw.
        target: also let the hippocampi shrink or grow on their own.
    """

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=g)

    angles = torch.deg2rad(uniform(-5, 5, 3))
    scales = uniform(0.95, 1.05, 1) * uniform(0.97, 1.03, 3)
    linear = torch.linalg.matrix_exp(torch.linalg.cross(torch.eye(3), angles.expand(3, 3))) @ torch.diag(scales)
    shift = uniform(-3, 3, 3)
    bends = [
        Spline.draw(g, head.low, head.high, knot=36.0, deviation=2.0, channels=3),
        Spline.draw(g, head.low, head.high, knot=13.0, deviation=0.7, channels=3),
    ]
    growth = float(uniform(*_GROWTH)) if target else 0.0
    check = [torch.arange(float(a), float(b), 4.0) for a, b in zip(head.low, head.high, strict=True)]
    bends = unfolded(bends, linear, check)
    return Warp(head, linear, shift, bends, (growth, growth))


def resized(warp: Warp, left: float, right: float) -> Warp:
    """Warp with the growth that gives the hippocampi a volume, or comes closest.

    Args:
        warp: whose growth is replaced.
        left: volume of the left one, ml.
        right: volume of the right one, ml.
    """
    still, head, step = replace(warp, growth=(0.0, 0.0)), warp.head, 2.0
    coarse = [torch.arange(float(a) - 16, float(b) + 16, 8.0) for a, b in zip(head.low, head.high, strict=True)]
    box = _box_of(still.points(coarse), *head.reach)
    axes = [torch.arange(float(a[s][0]) - 8, float(a[s][-1]) + 8, step) for a, s in zip(coarse, box, strict=True)]
    points = still.points(axes)
    inward = sample(head.inward, warp.grid(points))
    is_left = points[0] < 0
    low, high = torch.tensor([_FURTHEST, _FURTHEST]).T
    for _ in range(10):
        middle = (low + high) / 2
        inside = sample(head.hippocampi, warp.grid(points - torch.where(is_left, middle[0], middle[1]) * inward))[0]
        volumes = torch.stack([inside[is_left].sum(), inside[~is_left].sum()]) * step**3 / 1000
        larger = volumes > torch.tensor([left, right])
        low, high = torch.where(larger, middle, low), torch.where(larger, high, middle)
    growth = ((low + high) / 2).tolist()
    return replace(warp, growth=(growth[0], growth[1]))


def _box_of(points: Tensor, low: Tensor, high: Tensor) -> tuple[slice, ...]:
    """The smallest box of voxels that holds all whose (3, X, Y, Z) points lie between two corners; all if none."""
    inside = torch.ones(points.shape[1:], dtype=torch.bool)
    for axis in range(3):
        inside &= (points[axis] >= low[axis]) & (points[axis] <= high[axis])
    return tuple(slice(first, last + 1) for first, last in bounding_box(inside)) if inside.any() else ()


def sample(volume: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Values of a volume at the points of `Warp.grid`; 0 outside the head.

    The volume may be coarser than the head's 1 mm: its outermost voxels lie on the head's.

    Args:
        volume: (channels, X, Y, Z).
        grid: as of `Warp.grid`.
        mode: "bilinear" or "nearest".
    """
    return F.grid_sample(volume[None], grid, mode=mode, padding_mode="zeros", align_corners=True)[0]
