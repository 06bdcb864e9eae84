"""Results of a training: final weights, metadata of the model file, figures of `metrics.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.spacing import TrainingSpacing
from tcurlora_seg.data.typical import Ranges
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.pretrained import LoadReport
from tcurlora_seg.models.trainable import trainable_parameters
from tcurlora_seg.training.callbacks import AverageLast, Checkpoints, Meter
from tcurlora_seg.training.classes import ClassWatch
from tcurlora_seg.training.directory import git_commit
from tcurlora_seg.training.module import SegmentationModule


class Watchers(NamedTuple):
    """Callbacks with results.

    Attributes:
        meter: time and memory.
        average: weights of the last epochs.
        classes: predicted structures.
        checkpoints: best and last epoch.
    """

    meter: Meter
    average: AverageLast
    classes: ClassWatch
    checkpoints: Checkpoints


def keep_weights(module: SegmentationModule, watchers: Watchers) -> None:
    """Final weights: the mean over the last epochs, or the best epoch by validation Dice, or else the last.

    Args:
        module: the trained module, changed in place.
        watchers: of the run.
    """
    if watchers.average.epochs:
        watchers.average.average(module)
        return
    best = watchers.checkpoints.folder / "best.ckpt"
    if best.exists():
        try:
            state = torch.load(best, weights_only=True, map_location=module.device)["state_dict"]
        except Exception as error:  # torch.load raises what unpickling any bytes may raise
            raise UserError(f"{best} is damaged: remove it, and resume takes the last epoch instead") from error
        module.load_state_dict(state, strict=False)


def model_notes(config: DictConfig, dataset: SegmentationDataset, trained_on: Sequence[str], spacing: TrainingSpacing,
                typical: Ranges) -> dict[str, Any]:  # fmt: skip
    """Metadata of the model file.

    Args:
        config: of the run.
        dataset: of the run.
        trained_on: the real data sets that the base has seen.
        spacing: voxel sizes of the training images.
        typical: of the training images, see `typical`.
    """
    real = [dataset.cohort] if dataset.manifest().simulated is None else []
    return {
        "trained_on": sorted({*trained_on, *real}),
        "dataset": dataset.name,
        "task": dataset.task.name,
        "spacing": spacing.as_dict(),
        "typical": typical,
        "label_map": {str(index): list(values) for index, values in dataset.task.classes.items()},
        "model": OmegaConf.to_container(config.model, resolve=True),
        "adapter": OmegaConf.to_container(config.adapter, resolve=True),
        "seed": config.seed,
        "git_commit": git_commit(),
    }


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """Number of trainable parameters, and of all."""
    return {
        "trainable_parameters": sum(p.numel() for p in trainable_parameters(network).values()),
        "total_parameters": sum(p.numel() for p in network.parameters()),
    }


def figures(config: DictConfig, network: Any, base: LoadReport, watchers: Watchers, steps: int) -> dict[str, Any]:
    """Figures of `metrics.json`, without the scores.

    Args:
        config: of the run.
        network: the trained network, with its adapters.
        base: report on its base.
        watchers: callbacks of the run.
        steps: number of optimiser steps.
    """
    meter, checkpoints = watchers.meter, watchers.checkpoints
    best = checkpoints.best_dice if checkpoints.best_dice >= 0 else None
    return {
        "seed": config.seed,
        "steps": steps,
        "max_steps": config.trainer.max_steps,
        **parameter_counts(network),
        "ranks": {name: ranks for name, adapter in network.adapters.items() if (ranks := adapter.ranks()) is not None},
        "step_seconds": meter.step_seconds,
        "data_wait": meter.data_wait,
        "train_seconds": meter.train_seconds,
        "peak_memory_bytes": meter.peak_memory_bytes,
        "found_voxels": watchers.classes.ratios,
        "not_predicted": watchers.classes.lost,
        "base": {key: list(getattr(base, key)) for key in ("resized", "fresh", "ignored")},
        "validation_dice": checkpoints.last_dice if watchers.average.epochs else best,
        "scores": None,
    }
