"""Intensities: the background of an image, and scaling of the rest.

A bundle carries a copy of this file, so it needs nothing but MONAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

NEGATIVE = 0.05
"""Share of the sum of |x| that lies below 0 where an image is on both sides of it: more than ringing or noise give."""
CONSTANT = 0.1
"""Least share of the voxels that have the value of a background."""


@dataclass(frozen=True)
class Background:
    """Background of a channel.

    Attributes:
        value: of the voxels that show nothing; None where every voxel shows something.
        below: whether lower values show nothing either.
    """

    value: float | None = 0.0
    below: bool = True

    def inside(self, channel: Tensor) -> Tensor:
        """Mask of the voxels that show something; also after interpolation, which rounds."""
        if self.value is None:
            return torch.ones_like(channel, dtype=torch.bool)
        return channel > self.value if self.below else (channel - self.value).abs() > 1e-4 * max(1.0, abs(self.value))


def find_background(channel: Tensor, choice: str = "auto") -> Background:
    """Background of a channel (X, Y, Z) as stored.

    It is 0 and below; but where an image has been scaled to both sides of 0, as by a z-score or in Hounsfield units,
    its most frequent value if a tenth of the voxels have it, or none.

    Args:
        channel: as stored.
        choice: "auto"; "zero" takes 0 and below whatever the image is like.
    """
    if choice == "zero":
        return Background()
    weight, negative = channel.abs().sum(dtype=torch.float64), -channel.clamp(max=0).sum(dtype=torch.float64)
    if negative <= NEGATIVE * weight:
        return Background()
    value = channel.flatten().mode().values
    share = (channel == value).double().mean()
    return Background(float(value) if share >= CONSTANT else None, below=False)


def note_backgrounds(image: MetaTensor, choice: str = "auto") -> MetaTensor:
    """The image with the background of each channel in its meta data, to be noted before it is cropped or resampled.

    Args:
        image: (C, X, Y, Z).
        choice: see `find_background`.
    """
    image.meta["backgrounds"] = [find_background(channel, choice) for channel in _plain(image)]
    return image


def inside(image: MetaTensor) -> Tensor:
    """Mask (C, X, Y, Z) of what shows something by the noted backgrounds."""
    found = zip(image.meta["backgrounds"], _plain(image), strict=True)
    return torch.stack([background.inside(channel) for background, channel in found])


def scale(image: MetaTensor, intensity: str, limits: Sequence[float] | None) -> MetaTensor:
    """The image with scaled intensities; it keeps its affine and the record of what was done to it.

    Args:
        image: (C, X, Y, Z) with noted backgrounds.
        intensity: see `Preparation`.
        limits: see `Preparation`.
    """
    channels = []
    for channel, shows in zip(_plain(image).float(), inside(image), strict=True):
        shows = torch.ones_like(shows) if intensity == "zscore_image" else shows
        values = channel[shows]
        if intensity.startswith("zscore"):
            channels.append(torch.where(shows, (channel - values.mean()) / values.std(correction=0), 0.0))
            continue
        low, high = limits or (0.0, 1.0)
        if intensity == "percentiles":
            low, high = np.percentile(values.cpu().numpy(), [low, high]).tolist()
        channels.append(((channel - low) / max(high - low, 1e-8)).clamp(0, 1))
    meta = {key: value for key, value in image.meta.items() if key != "backgrounds"}
    return MetaTensor(torch.stack(channels), meta=meta, applied_operations=image.applied_operations)


def _plain(image: Tensor) -> Tensor:
    return torch.as_tensor(image).as_subclass(Tensor)
