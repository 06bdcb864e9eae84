"""Anatomy of a label map: boxes, counts, middles; which values are brain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tcurlora_seg.data.simulate.appearance import blur
from tcurlora_seg.data.simulate.splines import bounding_box
from tcurlora_seg.data.synthesis.contrast import OUTSIDE

FLUID = 24
"""Value of the fluid around the brain."""


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
        """Anatomy of label values, cut to the box of what is not 0.

        Args:
            values: (X, Y, Z) in RAS order.
            zooms: voxel size, mm.
            focus: values of the structures to look at.
        """
        zoom = torch.tensor(list(zooms), dtype=torch.float32)
        values = values[tuple(slice(first, last + 1) for first, last in bounding_box(values > 0))].short()
        values = torch.nn.functional.pad(values, (1,) * 6)
        places = [torch.nonzero(values == value).float().mean(0) * zoom for value in focus if (values == value).any()]
        head, brain = (torch.tensor(bounding_box(mask)).T * zoom for mask in (values > 0, is_brain(values)))
        counts = torch.bincount(values.flatten().int()).float()
        return cls(values, list(zooms), counts, torch.stack(places) if places else torch.zeros(0, 3), head, brain)


def is_brain(values: Tensor) -> Tensor:
    """Mask of the brain with the fluid around it: neither air nor what surrounds the brain."""
    return (values > 0) & ((values < OUTSIDE.start) | (values >= OUTSIDE.stop))


def without_fluid(values: Tensor, sigma: float, level: float) -> Tensor:
    """Mask of the brain cut closely: where its own tissue, blurred, is above a level.

    Args:
        values: (X, Y, Z) label values.
        sigma: of the blur, voxels.
        level: from 0 to 1.
    """
    brain = is_brain(values)
    return brain & (blur((brain & (values != FLUID)).float(), sigma) > level)
