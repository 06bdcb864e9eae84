"""Placement of a sample in a head: turned, scaled, sheared and bent without folding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from tcurlora_seg.data.simulate.splines import Axes, Spline, corners, placed, unfolded


def draw_points(
    axes: Axes, centre: Tensor, g: Generator, *, rotation: float, scale: float, shear: float, bend: float
) -> Tensor:
    """Positions (3, X, Y, Z) in the head, mm, of a sample's voxels: A x + u(x) + centre.

    Args:
        axes: positions of the voxels around the middle of the sample, mm.
        centre: where the middle lies in the head, mm.
        g: source of the draw.
        rotation: largest angle about each axis, radians.
        scale: sizes are multiplied by exp(± scale) along each axis.
        shear: largest off-diagonal element.
        bend: largest standard deviation of the displacement u, mm; it is scaled down where it would fold.
    """

    def draw(*size: int) -> Tensor:
        return 2 * torch.rand(size, generator=g) - 1

    turn = torch.linalg.matrix_exp(torch.linalg.cross(torch.eye(3), (draw(3) * rotation).expand(3, 3)))
    slant = torch.eye(3) + (1 - torch.eye(3)) * draw(3, 3) * shear
    linear = turn @ slant @ torch.diag(torch.exp(draw(3) * scale))
    strength, knot = torch.rand(2, generator=g).tolist()
    bends = [Spline.draw(g, *corners(axes), knot=10 + 25 * knot, deviation=bend * strength, channels=3)]
    (bend_field,) = unfolded(bends, linear, [axis[::4] for axis in axes])
    return placed(bend_field(axes), linear, centre, axes)


def values_at(volume: Tensor, points: Tensor, zooms: Sequence[float]) -> Tensor:
    """Values (X, Y, Z) of the nearest voxels of a volume.

    Its outermost voxels are nothing, and stand for all beyond.

    Args:
        volume: (A, B, C) in RAS order.
        points: (3, X, Y, Z) positions in mm from the centre of its first voxel.
        zooms: its voxel size, mm.
    """
    index = torch.zeros(points.shape[1:], dtype=torch.int64)
    for axis, (n, zoom) in enumerate(zip(volume.shape, zooms, strict=True)):
        index = index * n + (points[axis] / zoom).round_().clamp_(0, n - 1).long()
    return volume.reshape(-1)[index]
