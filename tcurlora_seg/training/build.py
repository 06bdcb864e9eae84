"""Parts of a training run from its configuration: base, Lightning module, data module, trainer."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from omegaconf import DictConfig
from torch import nn

from tcurlora_seg.config.target import backbone_of_target
from tcurlora_seg.data.datamodule import SegmentationDataModule
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.run import predictor_for
from tcurlora_seg.models.precision import resolve_precision
from tcurlora_seg.models.pretrained import LoadReport, load_pretrained, save_base
from tcurlora_seg.training.callbacks import Checkpoints, RandomState
from tcurlora_seg.training.interruption import Divergence, Patience, StopOnSignal
from tcurlora_seg.training.module import SegmentationModule
from tcurlora_seg.training.plan import plan_spacing, plan_training
from tcurlora_seg.training.progress import EpochBar, EpochLine
from tcurlora_seg.training.tensorboard import Histograms, ValidationOverlays

_NO_ARGUMENTS = ("average_last", "patience", "on_divergence", "probe", "save_every", "histograms")
"""Keys of `training` that do not belong to the module."""

_log = logging.getLogger(__name__)


def load_base(network: nn.Module, config: DictConfig) -> LoadReport:
    """Load the pre-trained weights. Random ones are stored first, so that the model file has a base to refer to.

    Args:
        network: what the weights are loaded into.
        config: of the run; `pretrained=random` becomes the path of the stored weights.

    Raises:
        UserError: see `load_pretrained`.
    """
    if config.pretrained == "random":
        config.pretrained = str(save_base(network, Path(config.outputs) / "bases"))
    options = {"missing": config.pretrained_missing, "inflate": config.pretrained_inflate}
    return load_pretrained(network, config.pretrained, **options)


def build_module(config: DictConfig, dataset: SegmentationDataset, network: nn.Module) -> SegmentationModule:
    """Lightning module of a run.

    Args:
        config: of the run, completed by the plan.
        dataset: for the classes and the whole-volume inference.
        network: the network with its adapters.

    Raises:
        UserError: a loss or class weights that cannot be, see `SegmentationModule`.
    """
    options = {k: v for k, v in config.training.items() if k not in _NO_ARGUMENTS}
    return SegmentationModule(
        network=network,
        optimizer=instantiate(config.optimizer),
        predictor=predictor_for(network, config, dataset),
        structures=dict(dataset.task.structures),
        total_steps=config.trainer.max_steps,
        ignoring=bool(dataset.task.ignored),
        **options,
    )


def build_data(config: DictConfig, dataset: SegmentationDataset, split: Split) -> tuple[SegmentationDataModule, str]:
    """Data module with prepared training volumes, and in two lines the plan that follows from them.

    Args:
        config: of the run; the plan completes it.
        dataset: where the cases are.
        split: the cases.

    Raises:
        UserError: a case that cannot be used, or too little memory.
    """
    plan_spacing(config, dataset, split.train)
    options = {k: v for k, v in config.data.items() if k != "augmentation"}
    data = SegmentationDataModule(
        dataset=dataset,
        split=split,
        seed=config.seed,
        augmentation=instantiate(config.data.augmentation),
        **options,
    )
    volumes = data.volumes(_processes(config.trainer.devices))
    backbone = backbone_of_target(config.model["_target_"])
    largest, multiple = backbone.window(config.model), backbone.multiple
    survey = volumes.survey()
    seen = {index for counts in survey.voxels for index, count in enumerate(counts) if count}
    unseen = [name for name, classes in dataset.task.structures.items() if not seen & {*classes}]
    if unseen:
        _log.warning("no training case has a voxel of %s: it cannot be learnt", ", ".join(unseen))
    text = plan_training(config, survey, largest=largest, multiple=multiple)
    data.crop = list(config.window)
    return data, text


def _processes(devices: Any) -> int:
    """Number of processes by `trainer.devices`, each of which keeps the volumes: a number, -1, a list or auto."""
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if str(devices) in ("-1", "auto"):
        return max(1, torch.cuda.device_count())
    return int(devices)


def build_trainer(
    config: DictConfig, directory: Path, more: list[Callback], checkpoints: Checkpoints
) -> lightning.Trainer:
    """Lightning trainer with the callbacks and the logger of a run.

    Args:
        config: of the run.
        directory: of the run.
        more: callbacks that come before those of every run.
        checkpoints: the checkpoint callback, which comes last but one.

    Raises:
        UserError: early stopping without validation cases, a GPU where PyTorch sees none, or
            arguments that Lightning refuses.
    """
    device = config.trainer.accelerator
    if device in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={device}: PyTorch sees no GPU here; choose auto or cpu")
    terminal = sys.stdout.isatty()
    callbacks: list[Callback] = [RandomState(), *more, EpochBar() if terminal else EpochLine()]
    if str(config.logger.get("_target_")).endswith("CSVLogger"):
        _set_table_aside(directory / str(config.logger.version))
    logger = instantiate(config.logger, save_dir=str(directory)) if "_target_" in config.logger else False
    if logger:
        callbacks.append(LearningRateMonitor("step"))
    if config.training.histograms:
        callbacks.append(Histograms(config.training.save_every))
    callbacks.append(Divergence(skip=config.training.on_divergence == "skip"))
    if checkpoints.validated:
        callbacks.append(ValidationOverlays())
    patience = config.training.patience
    if patience:
        if not checkpoints.validated:
            overfit = ", and overfit=0, which has none" if config.overfit else ""
            raise UserError(f"training.patience={patience} needs validation cases: set split.validation{overfit}")
        callbacks.append(Patience(patience))
    callbacks += [checkpoints, StopOnSignal(checkpoints)]
    try:
        return instantiate(
            {**config.trainer, "precision": training_precision(config)},
            max_epochs=-1,
            default_root_dir=str(directory),
            logger=logger,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=terminal,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
    except InstantiationException as error:
        raise UserError(f"trainer: {error.__cause__ or error}") from error


def _set_table_aside(folder: Path) -> None:
    """Give the table of a run's earlier part another name: Lightning's logger would delete it."""
    if folder.is_dir():
        os.replace(folder, next(p for p in (Path(f"{folder}_{n}") for n in count(1)) if not p.exists()))


def training_precision(config: DictConfig) -> str:
    """Precision by `trainer.precision`, with `auto` resolved for the device that `trainer.accelerator` will take."""
    gpu = config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return resolve_precision(config.trainer.precision, torch.device("cuda" if gpu else "cpu"))


def quieten() -> None:
    """Silence Lightning's messages that every run repeats; warnings of this package stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in ("num_workers", "LeafSpec", "treespec", "tensorboardX", "across ranks is zero", "logging interval",
                 "dataloader is not resumable"):  # fmt: skip
        warnings.filterwarnings("ignore", f".*{text}.*")
