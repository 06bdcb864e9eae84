"""What a run leaves: the weights that are kept, the model file's notes, its figures and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.spacing import TrainingSpacing
from tcurlora_seg.data.typical import Ranges
from tcurlora_seg.evaluation.evaluate import evaluate
from tcurlora_seg.evaluation.processes import is_first
from tcurlora_seg.inference.pieces import Clearing
from tcurlora_seg.inference.run import predictor_for
from tcurlora_seg.models.injection import merged
from tcurlora_seg.models.pretrained import LoadReport
from tcurlora_seg.models.trainable import trainable_parameters
from tcurlora_seg.training.callbacks import AverageLast, Checkpoints, Meter
from tcurlora_seg.training.classes import ClassWatch
from tcurlora_seg.training.directory import git_commit
from tcurlora_seg.training.module import SegmentationModule
from tcurlora_seg.training.tensorboard import log_evaluation


class Watchers(NamedTuple):
    """The callbacks of a run that are asked for something after it.

    Attributes:
        meter: time and memory.
        average: the weights of the last epochs.
        classes: which structures were predicted.
        checkpoints: the best and the last epoch.
    """

    meter: Meter
    average: AverageLast
    classes: ClassWatch
    checkpoints: Checkpoints


class Seen(NamedTuple):
    """What is known of the training images when a run ends.

    Attributes:
        spacing: their voxel sizes.
        typical: see `data.typical`.
    """

    spacing: TrainingSpacing
    typical: Ranges


def keep_weights(module: SegmentationModule, watchers: Watchers) -> None:
    """Put the mean over the last epochs in place, or the best epoch by validation Dice, where there was one."""
    if watchers.average.epochs:
        watchers.average.average(module)
        return
    best = watchers.checkpoints.folder / "best.ckpt"
    if best.exists():
        state = torch.load(best, weights_only=True, map_location=module.device)["state_dict"]
        module.load_state_dict(state, strict=False)


def model_notes(
    config: DictConfig, dataset: SegmentationDataset, seen: Seen, trained_on: Sequence[str]
) -> dict[str, Any]:
    """The metadata of the model file; `trained_on` names the real data sets that the base has seen."""
    real = [dataset.cohort] if dataset.manifest().simulated is None else []
    return {
        "trained_on": sorted({*trained_on, *real}),
        "dataset": dataset.name,
        "task": dataset.task.name,
        "spacing": seen.spacing.as_dict(),
        "typical": seen.typical,
        "label_map": {str(index): list(values) for index, values in dataset.task.classes.items()},
        "model": OmegaConf.to_container(config.model, resolve=True),
        "adapter": OmegaConf.to_container(config.adapter, resolve=True),
        "seed": config.seed,
        "git_commit": git_commit(),
    }


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """How many numbers train, and how many there are."""
    return {
        "trainable_parameters": sum(p.numel() for p in trainable_parameters(network).values()),
        "total_parameters": sum(p.numel() for p in network.parameters()),
    }


def figures(config: DictConfig, network: Any, base: LoadReport, watchers: Watchers, steps: int) -> dict[str, Any]:
    """The figures of `metrics.json` but for the scores.

    Args:
        config: of the run.
        network: the trained network, with its adapters.
        base: what was loaded into it.
        watchers: what measured the training.
        steps: how many were taken.
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


def score(
    config: DictConfig,
    dataset: SegmentationDataset,
    network: nn.Module,
    cases: Sequence[str],
    seen: Seen,
    folder: Path,
    trainer: lightning.Trainer,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score held-out cases, each by one of the processes.

    Args:
        config: of the run.
        dataset: where the cases are.
        network: the trained network, with its adapters.
        cases: their ids.
        seen: what is known of the training images.
        folder: for the files.
        trainer: its device computes, its logger gets the scores.

    Returns:
        The summary and the rows of `cases.csv`.
    """
    network.to(trainer.strategy.root_device)
    with merged(network):
        summary, rows = evaluate(
            predictor_for(network, config, dataset), dataset, cases, folder,
            spacing=seen.spacing, typical=seen.typical, adapter=config.adapter.name,
            trainable_parameters=parameter_counts(network)["trainable_parameters"],
            pictures=config.inference.pictures, limited=config.split.test if config.test == "test" else None,
            clearing=Clearing(*(config.inference[key] for key in Clearing._fields)),
        )  # fmt: skip
    if is_first():
        log_evaluation(trainer.logger, folder, config.test, summary, trainer.global_step)
    return summary, rows
