"""Plan from the training cases: voxel size, window, class weights and number of steps.

The model is nnU-Net's fingerprint (Isensee et al. 2021), as far as a network that has its size already leaves a choice.
Given values stay; open ones (null or `auto`) are filled in, and `config.yaml` holds them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.resume import PLANNED
from tcurlora_seg.data.cache import Survey
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.spacing import TrainingSpacing
from tcurlora_seg.models.checkpoint import base_spacing
from tcurlora_seg.training.losses import balanced_weights

_ALIKE = 1.3
"""Voxel sizes that differ by less along every axis are left as they are: the augmentation scales by as much."""
_STEPS, _MOST_STEPS, _ROUND = 2000, 4000, 25
_STEPS_A_CASE = 1500
"""Of a single case as many teach as much as 4,000 do (docs/results.md)."""


def fitting_window(shapes: Sequence[Sequence[int]], largest: Sequence[int], multiple: int) -> list[int]:
    """The smallest window, up to `largest`, that holds every volume; its sides are 2, 3, ... times `multiple`.

    Args:
        shapes: of the volumes, three sides in voxels.
        largest: three sides in voxels.
        multiple: common divisor of the sides.
    """
    sides = [max(shape[axis] for shape in shapes) for axis in range(3)]
    wanted = [max(2, math.ceil(side / multiple)) * multiple for side in sides]
    return [min(pair) for pair in zip(wanted, largest, strict=True)]


def common_spacing(
    spacings: Sequence[Sequence[float]], base: TrainingSpacing | None = None
) -> list[float] | None:
    """Voxel size to resample to; None if the cases can stay as they are.

    It is the median where the cases differ by a factor of 1.3 or more along an axis, and along an axis where the
    median is none of the base's voxel sizes, the base's own median.

    Args:
        spacings: a voxel size a case.
        base: voxel sizes that the base was trained on.
    """
    axes = [sorted(spacing[axis] for spacing in spacings) for axis in range(3)]
    median = [round(sizes[len(sizes) // 2], 4) for sizes in axes]
    fitted = median if base is None else base.fit(median)
    alike = all(sizes[-1] < _ALIKE * sizes[0] for sizes in axes)
    return None if alike and fitted == median else fitted


def steps_for(window: Sequence[int], largest: Sequence[int], cases: int) -> int:
    """Number of steps in the time of 2,000 with the largest window, at most 4,000 and at most 1,500 a training case.

    Args:
        window: three sides in voxels.
        largest: three sides in voxels.
        cases: number of training cases.
    """
    steps = _STEPS * math.prod(largest) / math.prod(window)
    return min(max(_STEPS, round(steps / _ROUND) * _ROUND), _MOST_STEPS, _STEPS_A_CASE * cases)


def plan_spacing(config: DictConfig, dataset: SegmentationDataset, cases: Sequence[str]) -> None:
    """Let the preparation resample to `common_spacing`, where the voxel size is open.

    Args:
        config: of the run; it is changed.
        dataset: its preparation is changed.
        cases: ids of the training cases.
    """
    if dataset.preparation.spacing is None:
        sizes = [size for _, size in dataset.check_headers(cases).values()]
        spacing = common_spacing(sizes, base_spacing(config.pretrained))
        dataset.preparation = replace(dataset.preparation, spacing=spacing)
        config.dataset.preparation.spacing = spacing


def plan_training(config: DictConfig, survey: Survey, *, largest: Sequence[int], multiple: int) -> str:
    """Fill in the window, the class weights and the steps that the configuration leaves open.

    Args:
        config: of the run; it is changed.
        survey: of the prepared training volumes.
        largest: default window of the network.
        multiple: common divisor of the sides of a window.

    Returns:
        The plan in two lines.
    """
    config.window = config.window or fitting_window(survey.shapes, largest, multiple)
    if config.training.class_weights == "auto":
        weighted = config.training.loss in ("dice_ce", "tokens")
        config.training.class_weights = balanced_weights(survey.voxels, config.window) if weighted else None
    config.trainer.max_steps = config.trainer.max_steps or steps_for(config.window, largest, len(survey.shapes))
    sides = [max(shape[axis] for shape in survey.shapes) for axis in range(3)]
    spacing = config.dataset.preparation.spacing
    grid = "their own voxels" if spacing is None else f"voxels of {_by(spacing)} mm"
    weights = config.training.class_weights
    shown = "all 1" if weights is None else ", ".join(f"{weight:g}" for weight in weights)
    return (
        f"plan: a window of {_by(config.window)} for training volumes of up to {_by(sides)} in {grid}; "
        f"{config.trainer.max_steps} steps; class weights {shown}\n"
        f"      ({', '.join([*PLANNED][:-1])} and {[*PLANNED][-1]} change it)"
    )


def open_keys(config: DictConfig) -> list[str]:
    """Dotted keys that a plan fills in; of a run that goes on none, since its configuration holds the values."""
    return [key for key, value in PLANNED.items() if OmegaConf.select(config, key) == value]


def _by(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)
