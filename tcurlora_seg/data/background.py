"""Which voxels of an image show something: those above 0, or other than its background where values lie on both sides.

A bundle carries a copy of this file, so it needs nothing but PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEGATIVE = 0.05
"""Share of the sum of |x| that lies below 0 where an image is on both sides of it: more than ringing or noise give."""
CONSTANT = 0.1
"""Least share of the voxels that have the value of a background."""


@dataclass(frozen=True)
class Background:
    """What of a channel shows nothing.

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


def find_background(channel: Tensor) -> Background:
    """The background of a channel (X, Y, Z) as stored: 0 and below; but where an image has been scaled to both sides
    of 0, as by a z-score or in Hounsfield units, its most frequent value if a tenth of the voxels have it, or none."""
    weight, negative = channel.abs().sum(dtype=torch.float64), -channel.clamp(max=0).sum(dtype=torch.float64)
    if negative <= NEGATIVE * weight:
        return Background()
    value = channel.flatten().mode().values
    share = (channel == value).double().mean()
    return Background(float(value) if share >= CONSTANT else None, below=False)
