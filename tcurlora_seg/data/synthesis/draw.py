"""Images of a label map, drawn from a generator: windows to train on, whole heads to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from tcurlora_seg.data.synthesis import COARSE
from tcurlora_seg.data.synthesis.anatomy import FLUID, Anatomy, is_brain, without_fluid
from tcurlora_seg.data.synthesis.contrast import Contrast, draw_contrast
from tcurlora_seg.data.synthesis.placement import draw_points, values_at
from tcurlora_seg.data.synthesis.scanner import acquire, bias_field, texture
from tcurlora_seg.randomness import uniform

if TYPE_CHECKING:
    from tcurlora_seg.data.synthesis import Synthesis

_OWN_VOXELS = 100
"""Fewer than these say nothing of an image's mean and deviation."""


def draw_window(options: Synthesis, anatomy: Anatomy, size: Sequence[int], g: Generator) -> tuple[Tensor, Tensor]:
    """One training sample: a window somewhere in a bent copy of the head.

    Args:
        options: of the images.
        anatomy: of the label map.
        size: of the window, voxels.
        g: source of every draw.

    Returns:
        image: (X, Y, Z) float32 of mean 0 and deviation 1 over what the field of view shows, 0 outside.
        values: (X, Y, Z) int16 label values, 0 where the image shows nothing.
    """
    near = _chance(options.near_focus, g) and len(anatomy.middles) > 0
    small = near and _chance(options.small_field, g)
    skull = small or _chance(options.with_skull, g)
    spacing = uniform(g, *COARSE) if _chance(options.coarse, g) else 1.0
    axes = [(torch.arange(n) - (n - 1) / 2) * spacing for n in size]
    if near:
        reach = 5.0 if small else 14.0
        middle = anatomy.middles[int(torch.randint(len(anatomy.middles), (), generator=g))]
        centre = middle + (2 * torch.rand(3, generator=g) - 1) * reach
    else:
        low, high = anatomy.head if skull and _chance(0.5, g) else anatomy.brain
        centre = low + (high - low) * torch.rand(3, generator=g)
    points = draw_points(
        axes, centre, g, rotation=options.rotation, scale=options.scale, shear=options.shear, bend=options.bend_mm
    )
    values = values_at(anatomy.values, points, anatomy.zooms)
    shown = _field(options, axes, g) if small else _cut_off(axes, g)
    contrast = draw_contrast(torch.nonzero(anatomy.counts).flatten().tolist(), g, t1_like=_chance(options.t1_like, g))
    gamma = float(torch.exp(options.gamma * torch.randn((), generator=g)))
    air = uniform(g, 0.3, 0.75) if skull and _chance(0.5, g) else 0.0
    mask = _mask(values, skull, g) if not air else torch.tensor(True)
    image = _scan(options, values, axes, contrast, gamma, g) * shown * mask
    mean, deviation = statistics(contrast, gamma, anatomy.counts, skull, air)
    if small or _chance(0.2, g):
        inside = image[image > 0]
        if len(inside) > _OWN_VOXELS:
            mean, deviation = float(inside.mean()), max(float(inside.std()), 0.05)
    return torch.where(image > 0, (image - mean) / deviation, 0.0), values * (image > 0)


def draw_whole(options: Synthesis, values: Tensor, zooms: Sequence[float], g: Generator) -> Tensor:
    """Intensities (X, Y, Z) of the whole label map as it lies, white matter about 600 in a T1; 0 is nothing.

    Args:
        options: of the images.
        values: (X, Y, Z) label values.
        zooms: voxel size, mm.
        g: source of every draw.
    """
    axes = [torch.arange(n) * zoom for n, zoom in zip(values.shape, zooms, strict=True)]
    present = torch.nonzero(torch.bincount(values.flatten().int())).flatten().tolist()
    contrast = draw_contrast(present, g, t1_like=_chance(options.t1_like, g))
    image = _scan(options, values, axes, contrast, float(torch.exp(options.gamma * torch.randn((), generator=g))), g)
    return 600 * image * _mask(values, _chance(options.with_skull, g), g)


def _scan(
    options: Synthesis, values: Tensor, axes: Sequence[Tensor], contrast: Contrast, gamma: float, g: Generator
) -> Tensor:
    """(X, Y, Z) intensities above 0 of the labels, and of the air around them, as a scanner shows them."""
    index = values.int()
    ideal = contrast.mean[index] + contrast.deviation[index] * texture(axes, g)
    ideal = ideal.clamp_(min=0) * bias_field(axes, uniform(g, 0, options.bias), g)
    image = acquire(ideal, _thickness(g), uniform(g, 0.4, 0.9), uniform(g, 0.001, options.noise), g)
    return image.clamp_(min=1e-4).pow_(gamma)


def _field(options: Synthesis, axes: Sequence[Tensor], g: Generator) -> Tensor:
    """(X, Y, Z) bool: a small box around the middle."""
    sides = [uniform(g, low, high) / 2 for low, high in options.field_mm]
    x, y, z = (axis.abs() <= half for axis, half in zip(axes, sides, strict=True))
    return x[:, None, None] & y[:, None] & z


def _chance(share: float, g: Generator) -> bool:
    return uniform(g, 0, 1) < share


def _thickness(g: Generator) -> list[float]:
    """Of the measured voxels: as they are, a little larger along every axis, or thick slices along one."""
    kind = uniform(g, 0, 1)
    if kind < 0.6:
        return [1.0, 1.0, 1.0]
    if kind < 0.8:
        return [uniform(g, 1.0, 1.8) for _ in range(3)]
    thick = [1.0, 1.0, 1.0]
    thick[int(torch.randint(3, (), generator=g))] = uniform(g, 1.5, 4.0)
    return thick


def _mask(values: Tensor, skull: bool, g: Generator) -> Tensor:
    """(X, Y, Z) bool: the head; or the brain, with the fluid around it or closely cut, as programs cut it."""
    if skull:
        return values > 0
    return is_brain(values) if _chance(0.4, g) else without_fluid(values, uniform(g, 1.0, 2.5), uniform(g, 0.1, 0.5))


def _cut_off(axes: Sequence[Tensor], g: Generator) -> Tensor:
    """(X, Y, Z) bool: everything, or in 30 % one side of a plane where the field of view ends."""
    shown = torch.ones([len(axis) for axis in axes], dtype=torch.bool)
    if _chance(0.3, g):
        axis = int(torch.randint(3, (), generator=g))
        n = shown.shape[axis]
        end = int(uniform(g, 0.1, 0.6) * n)
        hidden = slice(0, end) if _chance(0.5, g) else slice(n - end, n)
        shown.movedim(axis, 0)[hidden] = False
    return shown


def statistics(contrast: Contrast, gamma: float, counts: Tensor, skull: bool, air: float) -> tuple[float, float]:
    """Mean and deviation over the whole image, of which a window shows a part.

    Args:
        contrast: of the image.
        gamma: of the image.
        counts: voxels of every label value in the whole head.
        skull: whether more than the brain is shown; if not, it is taken for closely cut.
        air: share of the image that shows noise in air.
    """
    values = torch.arange(len(counts))
    shown = counts * ((values > 0) if skull else is_brain(values) & (values != FLUID))
    shown[0] = shown.sum() * air / (1 - air)
    weight = shown / shown.sum()
    level = contrast.mean.clamp(min=0.01) ** gamma
    mean = float((weight * level).sum())
    within = (contrast.deviation * gamma * contrast.mean.clamp(min=0.1) ** (gamma - 1)) ** 2
    return mean, max(float((weight * ((level - mean) ** 2 + within)).sum()) ** 0.5, 0.05)
