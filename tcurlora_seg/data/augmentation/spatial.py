"""Spatial changes: rotation, scaling and elastic deformation in one resampling, and mirroring."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

from tcurlora_seg.data.simulate.splines import Spline
from tcurlora_seg.randomness import uniform

_KNOT = 16.0
"""Distance of the knots of an elastic deformation, mm."""


def affine(rotation: float, scaling: float, spacing: Sequence[float], g: Generator) -> Tensor:
    """Random rotation and scaling of voxel offsets, S⁻¹ R_x R_y R_z D S (3, 3); S turns voxels into mm.

    Args:
        rotation: largest angle about each axis, degrees.
        scaling: sizes along each axis are changed by factors from 1 / (1 + scaling) to 1 + scaling.
        spacing: voxel size in mm.
        g: source of the draw.
    """
    matrix = torch.eye(3, dtype=torch.float64)
    for axis in range(3):
        angle = math.radians(uniform(g, -rotation, rotation))
        turn = torch.eye(3, dtype=torch.float64)
        i, j = (k for k in range(3) if k != axis)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    limit = math.log1p(scaling)
    factors = torch.tensor([math.exp(uniform(g, -limit, limit)) for _ in range(3)], dtype=torch.float64)
    mm = torch.tensor(list(spacing), dtype=torch.float64)
    return matrix * factors * mm / mm[:, None]


def displacement(shape: Sequence[int], elastic: float, spacing: Sequence[float], g: Generator) -> Tensor:
    """Smooth random displacement in voxels (3, *shape), B-splines over knots 16 mm apart.

    Args:
        shape: of the crop.
        elastic: standard deviation along each axis, mm.
        spacing: voxel size in mm.
        g: source of the draw.
    """
    axes = [torch.arange(n) * float(mm) for n, mm in zip(shape, spacing, strict=True)]
    low, high = torch.zeros(3), torch.stack([axis[-1] for axis in axes])
    field = Spline.draw(g, low, high, knot=_KNOT, deviation=elastic, channels=3)(axes)
    return field / torch.tensor(list(spacing)).reshape(3, 1, 1, 1)


def sampling_points(shape: Sequence[int], anchor: Sequence[float], source: Sequence[float], matrix: Tensor) -> Tensor:
    """Places p(o) = source + A (o − anchor) in the volume of all voxels o of the crop: (3, *shape), in voxels.

    Args:
        shape: of the crop.
        anchor: the point of the crop that shows `source` of the volume.
        source: a point of the volume.
        matrix: A (3, 3).
    """
    points = torch.tensor(list(source), dtype=torch.float32).reshape(3, 1, 1, 1)
    for axis, n in enumerate(shape):
        steps = torch.arange(n, dtype=torch.float64) - anchor[axis]
        line = (matrix[:, axis, None] * steps).float()
        points = points + line.reshape(3, *(n if k == axis else 1 for k in range(3)))
    return points


def resample(image: Tensor, label: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Values at given points, linear for the image and nearest for the label; 0 outside the volume.

    Args:
        image: (C, X, Y, Z).
        label: (1, X, Y, Z) uint8.
        points: (3, *shape) places in voxels.

    Returns:
        image (C, *shape) and label (1, *shape) uint8.
    """
    box, scaled = [slice(None)], []
    for axis, n in enumerate(image.shape[1:]):  # no more of the volume is read than is needed
        low = min(max(int(points[axis].amin().floor()), 0), n - 1)
        high = min(max(int(points[axis].amax().ceil()) + 1, low + 1), n)
        box.append(slice(low, high))
        scaled.append((2 * (points[axis] - low) + 1) / (high - low) - 1)
    grid = torch.stack(scaled[::-1], dim=-1)[None]
    values = grid_sample(image[tuple(box)][None], grid, align_corners=False)
    classes = grid_sample(label[tuple(box)][None].float(), grid, mode="nearest", align_corners=False)
    return values[0], classes[0].to(torch.uint8)


def mirror(
    image: Tensor, label: Tensor, axes: Sequence[int], pairs: Sequence[tuple[int, int]], g: Generator
) -> tuple[Tensor, Tensor]:
    """Image and label, mirrored along each axis half of the time.

    Args:
        image: (C, X, Y, Z).
        label: (1, X, Y, Z).
        axes: those that may be mirrored.
        pairs: classes that change places when axis 0 is mirrored.
        g: source of the draw.
    """
    flips = [axis for axis in axes if uniform(g) < 0.5]
    if flips:
        image, label = (x.flip([axis + 1 for axis in flips]) for x in (image, label))
    if 0 in flips and pairs:
        label = swap(label, pairs)
    return image, label


def swap(label: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """The label with the two classes of every pair exchanged.

    Args:
        label: class indices, uint8.
        pairs: of class indices.
    """
    table = torch.arange(256, dtype=label.dtype)
    for a, b in pairs:
        table[a], table[b] = b, a
    return table[label.long()]
