"""Images synthesised from label maps, so that a network learns anatomy whatever the contrast.

After Billot et al., "SynthSeg", Medical Image Analysis 86 (2023) 102789, and with small fields of view besides whole
heads. Every image is a pure function of a label map and a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from tcurlora_seg.data.simulate.appearance import blur, uniform
from tcurlora_seg.data.synthesis.contrast import OUTSIDE, Contrast, draw_contrast
from tcurlora_seg.data.synthesis.placement import draw_points, values_at
from tcurlora_seg.data.synthesis.scanner import acquire, bias_field, texture

_FLUID = 24  # around the brain
_OWN_VOXELS = 100


class Anatomy(NamedTuple):
    """A label map ready to be sampled.

    Attributes:
        values: (X, Y, Z) int16 in RAS order with a margin of zeros.
        zooms: voxel size, mm.
        counts: voxels of every value.
        middles: (n, 3) centres of gravity of the structures to look at, mm from the first voxel.
        head, brain: (2, 3) corners of their boxes, mm from the first voxel.
    """

    values: Tensor
    zooms: Sequence[float]
    counts: Tensor
    middles: Tensor
    head: Tensor
    brain: Tensor

    @classmethod
    def of(cls, values: Tensor, zooms: Sequence[float], focus: Sequence[int]) -> Anatomy:
        """The anatomy of (X, Y, Z) label values in RAS order, cut to the box of what is not 0."""
        zoom = torch.tensor(list(zooms), dtype=torch.float32)
        low, high = _box(values > 0)
        values = values[tuple(slice(a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True))].short()
        values = torch.nn.functional.pad(values, (1,) * 6)
        places = [torch.nonzero(values == value).float().mean(0) * zoom for value in focus if (values == value).any()]
        head, brain = (_box(mask) * zoom for mask in (values > 0, is_brain(values)))
        counts = torch.bincount(values.flatten().int()).float()
        return cls(values, list(zooms), counts, torch.stack(places) if places else torch.zeros(0, 3), head, brain)


def is_brain(values: Tensor) -> Tensor:
    """Where values are neither air nor what surrounds the brain; the fluid around it counts as brain."""
    return (values > 0) & ((values < OUTSIDE.start) | (values >= OUTSIDE.stop))


def without_fluid(values: Tensor, sigma: float, level: float) -> Tensor:
    """The brain cut closely: where its own tissue, blurred by `sigma` voxels, is above `level`."""
    brain = is_brain(values)
    return brain & (blur((brain & (values != _FLUID)).float(), sigma) > level)


def _box(mask: Tensor) -> Tensor:
    """(2, 3) first and last index of what is set, along each axis."""
    found = [torch.nonzero(mask.amax(other)).flatten() for other in ((1, 2), (0, 2), (0, 1))]
    return torch.tensor([[int(f[0]) if len(f) else 0 for f in found], [int(f[-1]) if len(f) else 0 for f in found]])


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """Random images of a label map. configs/dataset/label_maps.yaml says what each number does."""

    t1_like: float = 0.65
    with_skull: float = 0.5
    focus: Sequence[int] = (17, 53)
    near_focus: float = 0.45
    small_field: float = 0.8
    field_mm: Sequence[Sequence[float]] = ((28, 46), (36, 62), (26, 48))
    coarse: float = 0.2
    rotation: float = 0.3
    scale: float = 0.2
    shear: float = 0.1
    bend_mm: float = 3.0
    bias: float = 0.3
    noise: float = 0.06
    gamma: float = 0.3

    def crop(self, anatomy: Anatomy, size: Sequence[int], g: Generator) -> tuple[Tensor, Tensor]:
        """One training sample: a window somewhere in a bent copy of the head.

        Returns:
            image: (X, Y, Z) float32 of mean 0 and deviation 1 over what the field of view shows, 0 outside.
            values: (X, Y, Z) int16 label values, 0 where the image shows nothing.
        """
        near = _chance(self.near_focus, g) and len(anatomy.middles) > 0
        small = near and _chance(self.small_field, g)
        skull = small or _chance(self.with_skull, g)
        spacing = uniform(g, 0.8, 2.0) if _chance(self.coarse, g) else 1.0
        axes = [(torch.arange(n) - (n - 1) / 2) * spacing for n in size]
        if near:
            reach = 5.0 if small else 14.0
            middle = anatomy.middles[int(torch.randint(len(anatomy.middles), (), generator=g))]
            centre = middle + (2 * torch.rand(3, generator=g) - 1) * reach
        else:
            low, high = anatomy.head if skull and _chance(0.5, g) else anatomy.brain
            centre = low + (high - low) * torch.rand(3, generator=g)
        points = draw_points(
            axes, centre, g, rotation=self.rotation, scale=self.scale, shear=self.shear, bend=self.bend_mm
        )
        values = values_at(anatomy.values, points, anatomy.zooms)
        shown = self._field(axes, g) if small else _cut_off(axes, g)
        contrast = draw_contrast(_present(anatomy.counts), g, t1_like=_chance(self.t1_like, g))
        gamma = float(torch.exp(self.gamma * torch.randn((), generator=g)))
        air = uniform(g, 0.3, 0.75) if skull and _chance(0.5, g) else 0.0
        mask = _mask(values, skull, g) if not air else torch.tensor(True)
        image = self._scan(values, axes, contrast, gamma, g) * shown * mask
        mean, deviation = statistics(contrast, gamma, anatomy.counts, skull, air)
        if small or _chance(0.2, g):
            inside = image[image > 0]
            if len(inside) > _OWN_VOXELS:
                mean, deviation = float(inside.mean()), max(float(inside.std()), 0.05)
        return torch.where(image > 0, (image - mean) / deviation, 0.0), values * (image > 0)

    def whole(self, values: Tensor, zooms: Sequence[float], g: Generator) -> Tensor:
        """(X, Y, Z) intensities of the whole label map as it lies, white matter about 600 in a T1; 0 is nothing."""
        axes = [torch.arange(n) * zoom for n, zoom in zip(values.shape, zooms, strict=True)]
        present = _present(torch.bincount(values.flatten().int()))
        contrast = draw_contrast(present, g, t1_like=_chance(self.t1_like, g))
        image = self._scan(values, axes, contrast, float(torch.exp(self.gamma * torch.randn((), generator=g))), g)
        return 600 * image * _mask(values, _chance(self.with_skull, g), g)

    def _scan(self, values: Tensor, axes: Sequence[Tensor], contrast: Contrast, gamma: float, g: Generator) -> Tensor:
        """(X, Y, Z) intensities above 0 of the labels, and of the air around them, as a scanner shows them."""
        index = values.int()
        ideal = contrast.mean[index] + contrast.deviation[index] * texture(axes, g)
        ideal = ideal.clamp_(min=0) * bias_field(axes, uniform(g, 0, self.bias), g)
        image = acquire(ideal, _thickness(g), uniform(g, 0.4, 0.9), uniform(g, 0.001, self.noise), g)
        return image.clamp_(min=1e-4).pow_(gamma)

    def _field(self, axes: Sequence[Tensor], g: Generator) -> Tensor:
        """(X, Y, Z) bool: a small box around the middle."""
        sides = [uniform(g, low, high) / 2 for low, high in self.field_mm]
        x, y, z = (axis.abs() <= half for axis, half in zip(axes, sides, strict=True))
        return x[:, None, None] & y[:, None] & z


def _chance(share: float, g: Generator) -> bool:
    return uniform(g, 0, 1) < share


def _present(counts: Tensor) -> list[int]:
    return torch.nonzero(counts).flatten().tolist()


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
        contrast, gamma: of the image.
        counts: voxels of every label value in the whole head.
        skull: whether more than the brain is shown; if not, it is taken for closely cut.
        air: share of the image that shows noise in air.
    """
    values = torch.arange(len(counts))
    shown = counts * ((values > 0) if skull else is_brain(values) & (values != _FLUID))
    shown[0] = shown.sum() * air / (1 - air)
    weight = shown / shown.sum()
    level = contrast.mean.clamp(min=0.01) ** gamma
    mean = float((weight * level).sum())
    within = (contrast.deviation * gamma * contrast.mean.clamp(min=0.1) ** (gamma - 1)) ** 2
    return mean, max(float((weight * ((level - mean) ** 2 + within)).sum()) ** 0.5, 0.05)
