"""Smooth random fields: uniform cubic B-splines over a coarse lattice of normal numbers.

    f(x) = Σ_ijk  c_ijk · β((x₁ − o₁)/h − i) · β((x₂ − o₂)/h − j) · β((x₃ − o₃)/h − k)

with knots h mm apart. The lattice is laid in millimetres, so that a field is the same at every voxel size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

Axes = Sequence[Tensor]
"""Positions of the voxels along each of the three axes of a grid, mm."""

_STEEPEST = 0.8
"""Bound on the row sums of |A⁻¹ ∂u/∂x|; below 1 the map x -> A x + u(x) is one to one."""

_DEVIATION = 0.34
"""Standard deviation of a field whose lattice is standard normal: (Σ_i β(t − i)²)^(3/2), averaged over t."""


def corners(axes: Axes) -> tuple[Tensor, Tensor]:
    """The least and the largest position along each of the axes."""
    return torch.stack([axis.min() for axis in axes]), torch.stack([axis.max() for axis in axes])


def bounding_box(mask: Tensor) -> list[tuple[int, int]]:
    """First and last index of what is set in an (X, Y, Z) mask, along each axis; (0, 0) where nothing is."""
    found = [torch.nonzero(mask.amax(other)).flatten().tolist() or [0] for other in ((1, 2), (0, 2), (0, 1))]
    return [(places[0], places[-1]) for places in found]


@dataclass(frozen=True)
class Spline:
    """A field with some channels, evaluated on any grid aligned with the axes; constant outside its box.

    Attributes:
        lattice: (channels, a, b, c) coefficients.
        low, high: corners of the box that the lattice covers, mm.
        knot: distance of the knots, mm.
    """

    lattice: Tensor
    low: Tensor
    high: Tensor
    knot: float

    @classmethod
    def draw(cls, g: Generator, low: Tensor, high: Tensor, *, knot: float, deviation: float, channels: int) -> Spline:
        """Random field of zero mean.

        Args:
            g: source of the draw.
            low: (3,) corner of the box, mm.
            high: (3,) corner of the box, mm.
            knot: distance of the knots, about the length of correlation, mm.
            deviation: about the standard deviation.
            channels: of the field.
        """
        counts = [int((b - a) // knot) + 4 for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        lattice = torch.randn(channels, *counts, generator=g) * (deviation / _DEVIATION)
        return cls(lattice, low, high, knot)

    def __call__(self, axes: Axes, derivative: int | None = None) -> Tensor:
        """(channels, X, Y, Z) values on the grid, or their derivative (per mm) along one axis."""
        field = self.lattice
        for axis in (2, 1, 0):
            basis = self._basis(axes[axis], axis, derived=axis == derivative)
            field = torch.movedim(torch.movedim(field, axis + 1, -1) @ basis.T, -1, axis + 1)
        return field

    def _basis(self, points: Tensor, axis: int, derived: bool) -> Tensor:
        """(points, coefficients) weights of the lattice along one axis."""
        low, high, count = float(self.low[axis]), float(self.high[axis]), self.lattice.shape[axis + 1]
        t = (points.clamp(low, high) - low) / self.knot
        first = t.floor().long().clamp(max=count - 4)
        f = t - first
        if derived:
            parts = [-((1 - f) ** 2), 3 * f**2 - 4 * f, -3 * f**2 + 2 * f + 1, f**2]
            weights = torch.stack(parts, dim=1) / (2 * self.knot)
        else:
            parts = [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]
            weights = torch.stack(parts, dim=1) / 6
        basis = points.new_zeros(len(points), count)
        return basis.scatter_(1, first[:, None] + torch.arange(4), weights)


def placed(field: Tensor, linear: Tensor, start: Tensor, axes: Axes) -> Tensor:
    """The points A x + start + u(x) of a grid.

    Args:
        field: (3, X, Y, Z) displacement u, mm; the result takes its memory.
        linear: A (3, 3).
        start: (3,), mm.
        axes: x along each axis, mm.
    """
    x, y, z = axes
    for i, row in enumerate(linear):
        field[i] += (row[0] * x + start[i])[:, None, None] + (row[1] * y)[:, None] + row[2] * z
    return field


def unfolded(bends: Sequence[Spline], linear: Tensor, axes: Axes) -> list[Spline]:
    """The displacements u = Σ bends, scaled down where x -> A x + u(x) would fold.

    With D = A⁻¹ ∂u/∂x and every row sum of |D| at most 0.8 the matrix I + D is diagonally dominant, so its determinant
    is positive.

    Args:
        bends: fields of three channels, mm.
        linear: A.
        axes: where to look, mm: several points a knot.
    """
    slope = torch.stack([torch.stack([bend(axes, derivative=j) for bend in bends]).sum(0) for j in range(3)], 1)
    steepest = torch.einsum("ik,kj...->ij...", torch.linalg.inv(linear), slope).abs().sum(1).max()
    tamed = min(1.0, _STEEPEST / max(float(steepest), 1e-6))
    return [Spline(bend.lattice * tamed, bend.low, bend.high, bend.knot) for bend in bends]
