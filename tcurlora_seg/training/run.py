"""One training run from a configuration to scores: what `scripts/train.py` calls."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tcurlora_seg.config import sweep
from tcurlora_seg.config.resume import resumed
from tcurlora_seg.config.target import backbone_of_target
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.leakage import keep_apart
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.data.spacing import TrainingSpacing, training_spacing
from tcurlora_seg.data.typical import Ranges
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.evaluate import evaluate
from tcurlora_seg.evaluation.processes import is_first
from tcurlora_seg.evaluation.report import print_summary
from tcurlora_seg.files import read_json, write_json, write_text
from tcurlora_seg.inference.pieces import Clearing
from tcurlora_seg.inference.run import predictor_for
from tcurlora_seg.memory import keep_freed_memory
from tcurlora_seg.models.backbone import build_network
from tcurlora_seg.models.checkpoint import save_model, trained_on
from tcurlora_seg.models.injection import adapt_from_config, merged
from tcurlora_seg.models.trainable import trainable_parameters
from tcurlora_seg.training.build import build_data, build_module, build_trainer, load_base, quieten, training_precision
from tcurlora_seg.training.callbacks import AverageLast, Checkpoints, Meter
from tcurlora_seg.training.classes import ClassWatch
from tcurlora_seg.training.data_changes import check_data, note_data
from tcurlora_seg.training.directory import (
    ANNOUNCED,
    announced_directory,
    claimed,
    environment,
    git_commit,
    run_directory,
)
from tcurlora_seg.training.estimate import describe_step, remedies
from tcurlora_seg.training.interruption import Stopped
from tcurlora_seg.training.module import SegmentationModule
from tcurlora_seg.training.resumption import describe_resumption
from tcurlora_seg.training.tensorboard import log_evaluation, log_hyperparameters


def train(config: DictConfig) -> float | None:
    """Train, save, score and note everything in a run directory.

    Returns:
        The mean Dice of the validation cases, which a sweeper may optimise; None without validation cases.

    Raises:
        UserError: whatever a user can have wrong: data, weights, ranks, folders.
    """
    quieten()
    config = resumed(config)
    _prepare_as(backbone_of_target(config.model["_target_"]).preparation(config.pretrained), config)
    dataset = instantiate(config.dataset)
    if not is_first():
        _run(config, dataset, announced_directory(config))
        return None
    directory = _directory(config, dataset.name)
    with claimed(directory):
        check_data(directory, dataset)
        skipped = _finished(directory, config.trainer.max_steps)
        if skipped:
            print(f"{directory} is finished: skipped")
        else:
            _run(config, dataset, directory)
    metrics = read_json(directory / "metrics.json")
    dice = (metrics["scores"] or {}).get("mean_dice")
    sweep.record("skipped" if skipped else "finished", directory=str(directory), dice=dice)
    return metrics["validation_dice"]


def _prepare_as(given: Mapping[str, Any], config: DictConfig) -> None:
    """Let the images be prepared as they were for the base."""
    if given and is_first():
        listed = ", ".join(f"{key}={value}" for key, value in given.items())
        print(f"dataset.preparation as the base asks for it, beside {config.pretrained}: {listed}")
    config.dataset.preparation.update(given)


def _validation_dice(config: DictConfig, checkpoints: Checkpoints) -> float | None:
    """That of the epoch whose weights are kept; with `average_last` that of the last epoch."""
    best = checkpoints.best_dice if checkpoints.best_dice >= 0 else None
    return checkpoints.last_dice if config.training.average_last else best


def _finished(directory: Path, steps: int | None) -> bool:
    """Whether a run has ended that was allowed as many steps, be it before them (`training.patience`).

    Planned steps (None) follow from the data, so any run that has ended has had them.
    """
    path = directory / "metrics.json"
    if not path.exists():
        return False
    metrics = read_json(path)
    return steps is None or metrics.get("max_steps", metrics["steps"]) >= steps


def _run(config: DictConfig, dataset: SegmentationDataset, directory: Path) -> None:
    """Everything that a run does in its directory, from the base to `metrics.json`.

    With several devices each process comes here; the first one writes and speaks.
    """
    leads = is_first()
    checkpoint = _readable_checkpoint(directory / "checkpoints")
    lightning.seed_everything(config.seed, verbose=False)
    seen = trained_on(config.pretrained)
    left_out = keep_apart(dataset, seen)
    if left_out and leads:
        print(f"left out {len(left_out)} case(s) that the base network was trained on (metrics.json lists them)")
    split = dataset.split(**config.split)
    if config.overfit:
        learned = split.train[: config.overfit]
        split = Split(train=learned, val=(), test=learned)
    _check_unchanged(directory, split)
    data, plan = build_data(config, dataset, split)
    going_on = describe_resumption(checkpoint, directory, config.trainer.max_steps)
    if leads:
        print(plan)
    network = build_network(config.model, config.window, **dataset.channels)
    base = load_base(network, config)
    adapt_from_config(network, config.adapter, seed=config.seed)
    precision = training_precision(config)
    instantiate(config.speed)(network, half="16" in precision)
    meter, average = Meter(), AverageLast(config.training.average_last)
    watch = ClassWatch(dataset.task.structures, classes=dataset.task.out_channels)
    checkpoints = Checkpoints(directory / "checkpoints", validated=bool(split.val), every=config.training.save_every)
    trainer = build_trainer(config, directory, [meter, average, watch], checkpoints)
    sizes = {
        "trainable_parameters": sum(p.numel() for p in trainable_parameters(network).values()),
        "total_parameters": sum(p.numel() for p in network.parameters()),
    }
    if leads:
        note_data(directory, dataset, split)
        print(f"base: {base}")
        _announce(config, dataset, split, directory, sizes, str(trainer.strategy.root_device))
        if going_on:
            print(going_on, flush=True)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    module = build_module(config, dataset, network)
    shape = (config.data.batch_size, len(dataset.modalities), *config.window)
    bf16 = precision == "bf16-mixed"
    device = trainer.strategy.root_device
    if leads:
        print(describe_step(network, shape, device, bf16=bf16, steps=config.trainer.max_steps), flush=True)
    try:
        with remedies():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stopped:
        sweep.record("stopped", directory=str(directory))
        advice = "" if sweep.running() else f"; resume={directory} goes on there"
        print(f"{stopped}: saved after step {trainer.global_step}{advice}", file=sys.stderr)
        sys.exit(128 + stopped.signal)

    if config.training.average_last:
        average.average(module)
    else:
        _take_best(directory, module)
    model_file = directory / "model.safetensors"
    spacing = training_spacing(size for _, size in dataset.check_headers(split.train).values())
    typical = data.typical
    if leads:
        save_model(network, model_file, metadata=_metadata(config, dataset, spacing, typical, seen))
    adapters: Any = network.adapters
    metrics = {
        "seed": config.seed,
        "steps": trainer.global_step,
        "max_steps": config.trainer.max_steps,
        **sizes,
        "ranks": {name: ranks for name, adapter in adapters.items() if (ranks := adapter.ranks()) is not None},
        "step_seconds": meter.step_seconds,
        "data_wait": meter.data_wait,
        "train_seconds": meter.train_seconds,
        "peak_memory_bytes": meter.peak_memory_bytes,
        "file_bytes": model_file.stat().st_size if leads else None,
        "left_out": left_out,
        "found_voxels": watch.ratios,
        "not_predicted": watch.lost,
        "base": {key: list(getattr(base, key)) for key in ("resized", "fresh", "ignored")},
        "validation_dice": _validation_dice(config, checkpoints),
        "scores": None,
    }
    rows = None
    if config.test and split.sides[config.test]:
        network.to(trainer.strategy.root_device)
        rows = _score(config, dataset, network, split.sides[config.test], spacing, typical, directory, metrics, trainer)
    if leads:
        log_hyperparameters(trainer.logger, config, config.test, metrics)
        write_json(directory / "metrics.json", metrics)  # before anything is printed: a terminal may fail
        if rows is not None:
            print_summary(rows, metrics["scores"], metrics)
            print(f"scores, label maps and pictures: {directory / 'evaluation' / config.test}")


def _check_unchanged(directory: Path, split: Split) -> None:
    """Check that a run to go on with still has the cases that it began with.

    Raises:
        UserError: the cohort has changed, so that a case trained on might be scored.
    """
    path = directory / "split.json"
    if path.exists() and read_json(path) != {side: list(ids) for side, ids in split.sides.items()}:
        raise UserError(
            f"the cohort has changed since {directory} began: its split is another one now than in {path}; "
            "restore the cohort or its manifest, or start a new run"
        )


def _announce(
    config: DictConfig, dataset: SegmentationDataset, split: Split, directory: Path, sizes: dict[str, int], device: str
) -> None:
    """Note what the run is made from, in its directory and on the terminal."""
    stored = OmegaConf.merge(config, {"dataset": dict(dataset.remembered)})
    write_text(directory / "config.yaml", OmegaConf.to_yaml(stored, resolve=True))
    write_json(directory / "split.json", {side: list(ids) for side, ids in split.sides.items()})
    write_json(directory / "environment.json", environment(device))
    cases = ", ".join(f"{len(ids)} {side}" for side, ids in split.sides.items())
    cases += "" if config.split.test is None else " (the first by hash)"
    trained, total = sizes["trainable_parameters"], sizes["total_parameters"]
    print(f"{config.adapter.name} on {dataset.name}: {cases} cases; {trained:,} of {total:,} parameters train")
    if sides := dataset.task.describe_sides():
        print(sides)
    print(f"run directory {directory}", flush=True)


def _score(
    config: DictConfig,
    dataset: SegmentationDataset,
    network: nn.Module,
    cases: Sequence[str],
    spacing: TrainingSpacing,
    typical: Ranges,
    directory: Path,
    metrics: dict[str, Any],
    trainer: lightning.Trainer,
) -> pd.DataFrame:
    """Score held-out cases, each by one of the processes, and put the summary into `metrics`; returns their rows."""
    folder = directory / "evaluation" / config.test
    rules = Clearing(*(config.inference.get(key) for key in Clearing._fields))
    with merged(network):
        metrics["scores"], rows = evaluate(
            predictor_for(network, config, dataset), dataset, cases, folder, spacing=spacing,
            adapter=config.adapter.name, trainable_parameters=metrics["trainable_parameters"],
            pictures=config.inference.pictures,
            limited=config.split.test if config.test == "test" else None,
            typical=typical, clearing=rules,
        )  # fmt: skip
    if is_first():
        log_evaluation(trainer.logger, folder, config.test, metrics["scores"], trainer.global_step)
    return rows


def _directory(config: DictConfig, dataset: str) -> Path:
    """The run directory.

    Raises:
        UserError: a folder that holds something else.
    """
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    directory = Path(config.resume) if config.resume else run_directory(config, dataset, sweep=multirun)
    if not (config.resume or multirun) and directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"output={directory} is not empty: choose another folder, or resume={directory} to go on")
    os.environ[ANNOUNCED] = str(directory)  # for the processes of the other devices
    return directory


def _readable_checkpoint(folder: Path) -> str | None:
    """The last checkpoint, or the one before it where the last is damaged; None where there is none.

    Raises:
        UserError: there are checkpoints, but none that can be read.
    """
    found = [path for path in (folder / "last.ckpt", folder / "previous.ckpt") if path.exists()]
    for path in found:
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            if not isinstance(state, dict) or not {"state_dict", "optimizer_states", "global_step"} <= state.keys():
                raise ValueError("it is no checkpoint of a run")
        except Exception as error:  # torch.load raises what unpickling any bytes may raise
            reason = str(error).split("\n")[0] or type(error).__name__
            warnings.warn(f"{path} is damaged ({reason}): it is passed over", stacklevel=2)
            continue
        return str(path)
    if found:
        raise UserError(f"no checkpoint in {folder} can be read: start anew with another output")
    return None


def _take_best(directory: Path, module: SegmentationModule) -> None:
    """Go back to the best epoch by validation Dice, where there was one."""
    best = directory / "checkpoints" / "best.ckpt"
    if best.exists():
        state = torch.load(best, weights_only=True, map_location=module.device)["state_dict"]
        module.load_state_dict(state, strict=False)


def _metadata(
    config: DictConfig,
    dataset: SegmentationDataset,
    spacing: TrainingSpacing,
    typical: dict[str, list[float]],
    seen: list[str],
) -> dict[str, Any]:
    real = [dataset.cohort] if dataset.manifest().simulated is None else []
    return {
        "trained_on": sorted({*seen, *real}),
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
