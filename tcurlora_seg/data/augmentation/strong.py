"""Strong augmentation for few training cases: nnU-Net's, with an elastic deformation and a bias field besides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from tcurlora_seg.data.augmentation import intensity
from tcurlora_seg.data.augmentation.crop import check_crops, cut, place_crop, target_voxel
from tcurlora_seg.data.augmentation.spatial import affine, displacement, mirror, resample, sampling_points
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import uniform

_SHARES = ("spatial", "intensity")


@dataclass(frozen=True, kw_only=True)
class StrongAugmentation:
    """Random crops of a prepared volume, turned, scaled, bent and seen by another scanner.

    A voxel of the target that a crop is drawn for stays where it is: everything turns about it. A volume smaller than
    the crop lies anywhere in it. Strengths are the largest that are drawn; 0 switches one off.

    Attributes:
        foreground: share of the crops that contain a voxel of the target, drawn evenly over its classes; null draws
            all crops uniformly.
        mirror_axes: axes (0 left-right, 1 back-front, 2 down-up), each mirrored half of the time.
        spatial: share of the samples that are rotated, scaled and bent, in one resampling.
        rotation: angle about each axis, degrees.
        scaling: size along each axis, by factors from 1 / (1 + scaling) to 1 + scaling.
        elastic: standard deviation of a smooth displacement, mm.
        intensity: chance of each of the following, for each channel.
        bias_field: standard deviation of the logarithm of a smooth factor.
        gamma: logarithm of the exponent.
        contrast: the spread is multiplied by 1 ± contrast.
        brightness: ± this many standard deviations are added.
        blur: standard deviation of a Gaussian, voxels.
        low_resolution: how much larger voxels are, for each axis.
        noise: its standard deviation, in those of the image.
    """

    foreground: float | None = 0.7
    mirror_axes: Sequence[int] = (0,)
    spatial: float = 0.7
    rotation: float = 20.0
    scaling: float = 0.25
    elastic: float = 1.5
    intensity: float = 0.2
    bias_field: float = 0.3
    gamma: float = 0.4
    contrast: float = 0.25
    brightness: float = 0.25
    blur: float = 1.0
    low_resolution: float = 2.0
    noise: float = 0.2

    def __post_init__(self) -> None:
        check_crops(self.foreground, self.mirror_axes)
        for name, value in vars(self).items():
            if isinstance(value, float | int) and (value < 0 or (name in _SHARES and value > 1)):
                expected = "a share from 0 to 1" if name in _SHARES else "0 or more"
                raise UserError(f"augmentation.{name}={value}: expected {expected}")

    def __call__(
        self,
        image: Tensor,
        label: Tensor,
        spots: Sequence[Tensor],
        *,
        crop: Sequence[int],
        mirror_pairs: Sequence[tuple[int, int]],
        g: Generator,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> tuple[Tensor, Tensor]:
        """One random sample of a volume; arguments and result as of `Augmentation`."""
        size = image.shape[1:]
        voxel = target_voxel(spots, size, self.foreground, g)
        corner = place_crop(size, crop, voxel, g, centred=False)
        if uniform(g) < self.spatial:
            middle = [start + (n - 1) / 2 for start, n in zip(corner, crop, strict=True)]
            still = middle if voxel is None else [float(i) for i in voxel]
            anchor = [place - start for place, start in zip(still, corner, strict=True)]
            points = sampling_points(crop, anchor, still, affine(self.rotation, self.scaling, spacing, g))
            if self.elastic:
                bent = displacement(crop, self.elastic, spacing, g)
                i, j, k = map(round, anchor)
                points = points + bent - bent[:, i, j, k].reshape(3, 1, 1, 1)
            image, label = resample(image, label, points)
        else:
            image, label = cut(image, corner, crop), cut(label, corner, crop)
        image, label = mirror(image, label, self.mirror_axes, mirror_pairs, g)
        return torch.stack([self._rescan(channel, g) for channel in image]), label

    def _rescan(self, x: Tensor, g: Generator) -> Tensor:
        """The channel (X, Y, Z) as another scanner would show it; voxels of 0 stay 0."""
        inside = x != 0
        changes: list[tuple[float, Callable[[Tensor], Tensor]]] = [
            (self.bias_field, lambda y: intensity.bias_field(y, inside, uniform(g, 0, self.bias_field), g)),
            (self.gamma, lambda y: intensity.gamma(y, inside, math.exp(uniform(g, -self.gamma, self.gamma)))),
            (self.contrast, lambda y: intensity.contrast(y, inside, 1 + uniform(g, -self.contrast, self.contrast))),
            (self.brightness, lambda y: intensity.brightness(y, inside, uniform(g, -self.brightness, self.brightness))),
            (self.blur, lambda y: intensity.blur(y, uniform(g, 0.3 * self.blur, self.blur))),
            (self.low_resolution, lambda y: intensity.low_resolution(
                y, [uniform(g, 1, max(self.low_resolution, 1)) for _ in range(3)])),
            (self.noise, lambda y: intensity.noise(y, inside, uniform(g, 0, self.noise), g)),
        ]  # fmt: skip
        for strength, change in changes:
            if strength and uniform(g) < self.intensity and bool(inside.any()):
                x = torch.where(inside, change(x), 0.0)
        return x
