"""A plan from the data: window, voxel size, class weights, steps and batch, from the training cases alone.

The model is nnU-Net's fingerprint (Isensee et al. 2021), as far as one network of one size leaves a choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tcurlora_seg.training.losses import balanced_weights

_PATCH = 16  # UNETR's: every side of a window is a multiple of it
_ALIKE = 1.3
"""Voxel sizes that differ by less along every axis are left as they are: the augmentation scales by as much."""
_STEPS, _MOST_STEPS, _ROUND = 300, 1000, 25


@dataclass(frozen=True)
class TrainingCases:
    """What is known of the training cases before the first step.

    Attributes:
        shapes: of the prepared volumes, voxels.
        spacings: of the prepared volumes, mm.
        voxels: of every class in each, background first.
    """

    shapes: Sequence[Sequence[int]]
    spacings: Sequence[Sequence[float]]
    voxels: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Plan:
    """How a run trains on its data.

    Attributes:
        window: of training and inference, voxels.
        spacing: voxel size in mm that volumes are resampled to; None leaves them as they are.
        class_weights: of the loss, background first.
        steps: of training.
        batch_size: crops in a step.
    """

    window: list[int]
    spacing: list[float] | None
    class_weights: list[float]
    steps: int
    batch_size: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fitting_window(shapes: Sequence[Sequence[int]], largest: Sequence[int]) -> list[int]:
    """The smallest multiple of 16 along each axis that holds every volume, and no more than `largest`."""
    sides = [max(shape[axis] for shape in shapes) for axis in range(3)]
    return [min(most, math.ceil(side / _PATCH) * _PATCH) for side, most in zip(sides, largest, strict=True)]


def common_spacing(spacings: Sequence[Sequence[float]]) -> list[float] | None:
    """The median voxel size where the cases differ by a factor of 1.3 or more along an axis, else None."""
    axes = [sorted(spacing[axis] for spacing in spacings) for axis in range(3)]
    if all(sizes[-1] < _ALIKE * sizes[0] for sizes in axes):
        return None
    return [round(sizes[len(sizes) // 2], 4) for sizes in axes]


def steps_for(window: Sequence[int], largest: Sequence[int]) -> int:
    """As many steps as take the time of 300 with the largest window, at most 1,000."""
    steps = _STEPS * math.prod(largest) / math.prod(window)
    return min(_MOST_STEPS, round(steps / _ROUND) * _ROUND)


def batch_for(step_bytes: Callable[[int], int], free: int | None) -> int:
    """Two crops, or one where a step with two does not fit into `free` bytes; None where nobody knows."""
    return 2 if free is None or step_bytes(2) <= free else 1


def plan_training(cases: TrainingCases, *, largest: Sequence[int], window: Sequence[int] | None = None) -> Plan:
    """The plan; what is given is kept, and the rest follows from it.

    Args:
        cases: the training cases, prepared.
        largest: the window that the network was made for.
        window: one that was chosen by hand.
    """
    chosen = list(window) if window else fitting_window(cases.shapes, largest)
    return Plan(
        window=chosen,
        spacing=common_spacing(cases.spacings),
        class_weights=balanced_weights(cases.voxels, chosen),
        steps=steps_for(chosen, largest),
        batch_size=2,
    )
