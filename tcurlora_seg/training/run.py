"""One training run from a configuration to scores: what `scripts/train.py` calls."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping
from monai.networks.nets import UNETR
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tcurlora_seg.checkpoint import save_model
from tcurlora_seg.data.datamodule import SegmentationDataModule
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.data.spacing import training_spacing
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.evaluate import evaluate
from tcurlora_seg.evaluation.report import print_summary
from tcurlora_seg.evaluation.run import build_network, predictor_for
from tcurlora_seg.files import read_json, write_json, write_text
from tcurlora_seg.models.injection import adapt_from_config, merged
from tcurlora_seg.models.pretrained import load_pretrained, save_base
from tcurlora_seg.models.trainable import trainable_parameters
from tcurlora_seg.training.callbacks import AverageLast, Checkpoints, EpochBar, EpochLine, Meter, RandomState
from tcurlora_seg.training.directory import environment, git_commit, run_directory
from tcurlora_seg.training.estimate import describe_step, remedies
from tcurlora_seg.training.module import SegmentationModule
from tcurlora_seg.training.overlays import ValidationOverlays, log_evaluation


def train(config: DictConfig) -> float | None:
    """Train, save, score and note everything in a run directory.

    Returns:
        The mean Dice of the validation cases, which a sweeper may optimise; None without validation cases.

    Raises:
        UserError: whatever a user can have wrong: data, weights, ranks, folders.
    """
    _quieten()
    dataset = instantiate(config.dataset)
    directory, checkpoint = _directory(config, dataset.name)
    if (directory / "metrics.json").exists():
        print(f"{directory} is finished: skipped")
        return read_json(directory / "metrics.json")["validation_dice"]

    lightning.seed_everything(config.seed, verbose=False)
    split = dataset.split(**config.split)
    if config.overfit:
        learned = split.train[: config.overfit]
        split = Split(train=learned, val=(), test=learned)
    network = build_network(config, dataset)
    _load_base(network, config)
    adapt_from_config(network, config.adapter, seed=config.seed)
    instantiate(config.speed)(network)
    write_text(directory / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    write_json(directory / "split.json", {side: list(ids) for side, ids in split.sides.items()})

    meter = Meter()
    trainer = _trainer(config, directory, meter, validated=bool(split.val))
    write_json(directory / "environment.json", environment(str(trainer.strategy.root_device)))
    trained = sum(p.numel() for p in trainable_parameters(network).values())
    total = sum(p.numel() for p in network.parameters())
    sizes = ", ".join(f"{len(ids)} {side}" for side, ids in split.sides.items())
    print(f"{config.adapter.name} on {dataset.name}: {sizes} cases; {trained:,} of {total:,} parameters train")
    print(f"run directory {directory}", flush=True)
    module = _module(config, dataset, network)
    shape = (config.data.batch_size, len(dataset.modalities), *config.model.img_size)
    bf16 = resolve_precision(config.trainer.precision) == "bf16-mixed"
    device = trainer.strategy.root_device
    print(describe_step(network, shape, device, bf16=bf16, steps=config.trainer.max_steps), flush=True)
    try:
        with remedies():
            trainer.fit(module, datamodule=_data(config, dataset, split), ckpt_path=checkpoint, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped: resume={directory} goes on from the last whole epoch", file=sys.stderr)
        raise

    _take_best(config, directory, module)
    model_file = directory / "model.safetensors"
    save_model(network, model_file, metadata=_metadata(config, dataset, split))
    metrics: dict[str, Any] = {
        "seed": config.seed,
        "steps": trainer.global_step,
        "trainable_parameters": trained,
        "total_parameters": total,
        "step_seconds": meter.step_seconds,
        "train_seconds": meter.train_seconds,
        "peak_memory_bytes": meter.peak_memory_bytes,
        "file_bytes": model_file.stat().st_size,
        "validation_dice": _figure(trainer.callback_metrics.get("val/dice")),
        "scores": None,
    }
    if config.test and split.sides[config.test]:
        network.to(trainer.strategy.root_device)
        folder = directory / "evaluation" / config.test
        with merged(network):
            metrics["scores"], rows = evaluate(
                predictor_for(network, config, dataset), dataset, split.sides[config.test], folder,
                adapter=config.adapter.name, trainable_parameters=trained,
                min_component_ml=config.inference.min_component_ml,
            )  # fmt: skip
        log_evaluation(trainer.logger, folder, config.test, metrics["scores"]["mean_dice"], trainer.global_step)
        print_summary(rows, metrics["scores"], metrics)
        print(f"scores, label maps and pictures: {folder}")
    write_json(directory / "metrics.json", metrics)
    return metrics["validation_dice"]


def _directory(config: DictConfig, dataset: str) -> tuple[Path, str | None]:
    """The run directory, and the checkpoint in it to go on from.

    Raises:
        UserError: nothing to resume, or a folder that holds something else.
    """
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    directory = Path(config.resume) if config.resume else run_directory(config, dataset, sweep=sweep)
    last = directory / "checkpoints" / "last.ckpt"
    if config.resume and not last.exists() and not (directory / "metrics.json").exists():
        raise UserError(f"resume={config.resume}: there is no {last} to go on from")
    if not (config.resume or sweep) and directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"output={directory} is not empty: choose another folder, or resume={directory} to go on")
    return directory, str(last) if last.exists() else None


def _load_base(network: UNETR, config: DictConfig) -> None:
    """Load the pre-trained weights; random ones are stored first, so that the run's file has a base to refer to."""
    if config.pretrained == "random":
        config.pretrained = str(save_base(network, Path(config.outputs) / "bases"))
    load_pretrained(network, config.pretrained, missing=config.pretrained_missing, inflate=config.pretrained_inflate)


def _module(config: DictConfig, dataset: SegmentationDataset, network: nn.Module) -> SegmentationModule:
    options = {k: v for k, v in config.training.items() if k not in ("average_last", "patience")}
    return SegmentationModule(
        network=network,
        optimizer=instantiate(config.optimizer),
        predictor=predictor_for(network, config, dataset),
        structures=dict(dataset.task.structures),
        total_steps=config.trainer.max_steps,
        **options,
    )


def _data(config: DictConfig, dataset: SegmentationDataset, split: Split) -> SegmentationDataModule:
    options = {k: v for k, v in config.data.items() if k != "augmentation"}
    return SegmentationDataModule(
        dataset=dataset,
        split=split,
        crop=list(config.model.img_size),
        seed=config.seed,
        augmentation=instantiate(config.data.augmentation),
        **options,
    )


def _trainer(config: DictConfig, directory: Path, meter: Meter, *, validated: bool) -> lightning.Trainer:
    """Lightning's trainer with what every run has.

    Raises:
        UserError: early stopping without validation cases.
    """
    terminal = sys.stdout.isatty()
    callbacks: list[Callback] = [RandomState(), meter, EpochBar(leave=True) if terminal else EpochLine()]
    if config.training.average_last:
        callbacks.append(AverageLast(config.training.average_last))
    if validated:
        callbacks.append(ValidationOverlays())
    patience = config.training.patience
    if patience:
        if not validated:
            raise UserError(f"training.patience={patience} needs validation cases: set split.validation")
        callbacks.append(EarlyStopping("val/dice", mode="max", patience=patience))
    callbacks.append(Checkpoints(directory / "checkpoints", validated=validated))
    logger = instantiate(config.logger, save_dir=str(directory)) if "_target_" in config.logger else False
    return instantiate(
        {**config.trainer, "precision": resolve_precision(config.trainer.precision)},
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


def resolve_precision(precision: str | int) -> str:
    """What `auto` stands for: bf16-mixed where the processor computes in bfloat16, else 32-true."""
    if precision != "auto":
        return str(precision)
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if native else "32-true"


def _take_best(config: DictConfig, directory: Path, module: SegmentationModule) -> None:
    """Go back to the best epoch by validation Dice, where there was one and no mean of the last ones was asked for."""
    best = directory / "checkpoints" / "best.ckpt"
    if best.exists() and not config.training.average_last:
        state = torch.load(best, weights_only=True, map_location=module.device)["state_dict"]
        module.load_state_dict(state, strict=False)


def _metadata(config: DictConfig, dataset: SegmentationDataset, split: Split) -> dict[str, Any]:
    sizes = [size for _, size in dataset.check_headers(split.train).values()]
    return {
        "dataset": dataset.name,
        "task": dataset.task.name,
        "spacing": training_spacing(sizes).as_dict(),
        "label_map": {str(index): list(values) for index, values in dataset.task.classes.items()},
        "model": OmegaConf.to_container(config.model, resolve=True),
        "adapter": OmegaConf.to_container(config.adapter, resolve=True),
        "seed": config.seed,
        "git_commit": git_commit(),
    }


def _figure(value: Any) -> float | None:
    return None if value is None else float(value)


def _quieten() -> None:
    """Keep Lightning from saying what every run repeats; our own and the data's warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in ("num_workers", "LeafSpec", "treespec", "tensorboardX", "across ranks is zero", "logging interval"):
        warnings.filterwarnings("ignore", f".*{text}.*")
