"""Training run, from a configuration to scores; `scripts/train.py` calls it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from tcurlora_seg.config import sweep
from tcurlora_seg.config.resume import resumed
from tcurlora_seg.config.target import backbone_of_target
from tcurlora_seg.data.datamodule import SegmentationDataModule
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.leakage import keep_apart
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.data.spacing import training_spacing
from tcurlora_seg.evaluation.evaluate import evaluate, limited_by
from tcurlora_seg.evaluation.processes import is_first
from tcurlora_seg.evaluation.report import print_summary
from tcurlora_seg.files import read_json, write_json
from tcurlora_seg.inference.run import clearing_for, predictor_for
from tcurlora_seg.memory import keep_freed_memory
from tcurlora_seg.models.backbone import backbone_of, build_network
from tcurlora_seg.models.checkpoint import save_model, trained_on
from tcurlora_seg.models.injection import adapt_from_config, merged
from tcurlora_seg.training.build import build_data, build_module, build_trainer, load_base, quieten, training_precision
from tcurlora_seg.training.callbacks import AverageLast, Checkpoints, Meter
from tcurlora_seg.training.classes import ClassWatch
from tcurlora_seg.training.directory import announced_directory, claimed
from tcurlora_seg.training.estimate import describe_step, fitting_batch, remedies
from tcurlora_seg.training.head import output_layer, probe
from tcurlora_seg.training.interruption import Stopped
from tcurlora_seg.training.module import SegmentationModule
from tcurlora_seg.training.plan import open_keys
from tcurlora_seg.training.results import Watchers, figures, keep_weights, model_notes, parameter_counts
from tcurlora_seg.training.start import (
    Checkpoint,
    check_data,
    choose_directory,
    describe_resumption,
    draw_cases,
    is_finished,
    note_start,
    readable_checkpoint,
    set_aside,
)
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
        directory = announced_directory(config)
        if not is_finished(directory, config.trainer.max_steps):  # which the first one finds, too, and ends
            _run(config, dataset, directory)
        return None
    directory = choose_directory(config, dataset.name)
    with claimed(directory):
        check_data(directory, dataset)
        skipped = is_finished(directory, config.trainer.max_steps)
        if skipped:
            keep_apart(dataset, trained_on(config.pretrained))
            draw_cases(dataset, config.split, overfit=config.overfit, directory=directory)  # no other cohort, either
            print(f"{directory} is finished: skipped")
        else:
            _run(config, dataset, directory)
    metrics = read_json(directory / "metrics.json")
    dice = (metrics["scores"] or {}).get("mean_dice")
    sweep.record("skipped" if skipped else "finished", directory=str(directory), dice=dice)
    return metrics["validation_dice"]


def _run(config: DictConfig, dataset: SegmentationDataset, directory: Path) -> None:
    """A run from the cases to `metrics.json`; each process of several devices calls it, the first one writes."""
    # the cases
    clearing = clearing_for(config)
    clearing.resolved(dataset.task)  # a mistake in it is told before the training
    checkpoint = readable_checkpoint(directory / "checkpoints")
    lightning.seed_everything(config.seed, verbose=False)
    origin = trained_on(config.pretrained)
    left_out = keep_apart(dataset, origin)
    split = draw_cases(dataset, config.split, overfit=config.overfit, directory=directory)
    planned = open_keys(config)
    data, plan = build_data(config, dataset, split)

    # the network
    network = build_network(config.model, config.window, **dataset.channels)
    base = load_base(network, config)
    adapt_from_config(network, config.adapter, seed=config.seed)
    instantiate(config.speed)(network, half="16" in training_precision(config))

    # the training
    watchers = Watchers(
        Meter(),
        AverageLast(config.training.average_last),
        ClassWatch(dataset.task.structures, classes=dataset.task.out_channels),
        Checkpoints(directory / "checkpoints", validated=bool(split.val), every=config.training.save_every),
    )
    trainer = build_trainer(config, directory, list(watchers[:3]), watchers.checkpoints)
    device, bf16 = trainer.strategy.root_device, training_precision(config) == "bf16-mixed"
    if config.data.batch_size is None:
        window = (len(dataset.modalities), *config.window)
        size = fitting_batch(network, window, device, bf16=bf16, processes=trainer.world_size)
        data.batch_size = config.data.batch_size = size
    if is_first():
        set_aside(directory)
        going_on = [describe_resumption(checkpoint, directory, config.trainer.max_steps)] if checkpoint else []
        note_start(directory, config, dataset, split, str(device), planned)
        if left_out:
            print(f"left out {len(left_out)} case(s) that the base network was trained on (metrics.json lists them)")
        print(f"{plan}\nbase: {base}")
        print(_describe(config, dataset, split, parameter_counts(network)))
        print("\n".join([f"run directory {directory}", *going_on]), flush=True)
        every = config.data.steps_per_epoch * (config.trainer.check_val_every_n_epoch or 1)
        if split.val and config.trainer.max_steps % every:
            print(f"the last {config.trainer.max_steps % every} steps are not validated: that comes every {every}")
        shape = (config.data.batch_size, len(dataset.modalities), *config.window)
        steps = config.trainer.max_steps - (checkpoint.step if checkpoint else 0)
        if steps > 0 and config.training.loss != "tokens":  # which leaves out the decoder
            batches = config.trainer.accumulate_grad_batches
            print(describe_step(network, shape, device, bf16=bf16, steps=steps, batches=batches), flush=True)
    if device.type == "cpu":
        keep_freed_memory()
    module = build_module(config, dataset, network)
    if checkpoint is None and set(backbone_of(network).head) & set(base.fresh):
        _start_output(network.to(device), data, config)
    _fit(trainer, module, data, checkpoint, directory)

    # what it leaves
    keep_weights(module, watchers)
    spacing, typical = training_spacing(dataset.training_sizes(split.train)), data.volumes().typical()
    metrics = {**figures(config, network, base, watchers, trainer.global_step), "left_out": left_out}
    if is_first():
        model_file = directory / "model.safetensors"
        save_model(network, model_file, metadata=model_notes(config, dataset, origin, spacing, typical))
        metrics["file_bytes"] = model_file.stat().st_size
    rows = None
    cases = split.sides[config.test] if config.test else ()
    if config.test and not cases and is_first():
        print(f"no case to score: test={config.test} has none here")
    if cases:
        folder = directory / "evaluation" / config.test
        with merged(network.to(device)):
            metrics["scores"], rows = evaluate(
                [predictor_for(network, config, dataset)], dataset, cases, folder,
                spacing=spacing, typical=typical, clearing=clearing, adapter=config.adapter.name,
                trainable_parameters=metrics["trainable_parameters"],
                pictures=config.inference.pictures, limited=limited_by(config, config.test),
            )  # fmt: skip
        if is_first():
            log_evaluation(trainer.logger, folder, config.test, metrics["scores"], rows, trainer.global_step)
    if is_first():
        log_hyperparameters(trainer.logger, config, config.test, metrics)
        write_json(directory / "metrics.json", metrics)  # before anything is printed: a terminal may fail
        if rows is not None:
            print_summary(rows, metrics["scores"], metrics)
            print(f"scores, label maps and pictures: {directory / 'evaluation' / config.test}")


def _start_output(network: nn.Module, data: SegmentationDataModule, config: DictConfig) -> None:
    """Fit a new output layer to the first training windows."""
    layer, options = output_layer(network), config.training
    if layer is not None and options.probe and options.loss != "tokens":
        samples, precision = data.first_samples(options.probe), training_precision(config)
        with remedies():
            probe(network, layer, samples, precision=precision, weights=options.class_weights)


def _fit(trainer: lightning.Trainer, module: SegmentationModule, data: SegmentationDataModule,
         checkpoint: Checkpoint | None, directory: Path) -> None:  # fmt: skip
    """Train; after a signal, say how to go on and exit with its code."""
    try:
        with remedies():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint and checkpoint.path, weights_only=True)
    except Stopped as stopped:
        sweep.record("stopped", directory=str(directory))
        advice = "" if sweep.running() else f"; resume={directory} goes on there"
        print(f"{stopped}: saved after step {trainer.global_step}{advice}", file=sys.stderr)
        sys.exit(128 + stopped.signal)


def _prepare_as(given: Mapping[str, object], config: DictConfig) -> None:
    """Take over the preprocessing of the base."""
    if given and is_first():
        listed = ", ".join(f"{key}={value}" for key, value in given.items())
        print(f"dataset.preparation as the base asks for it, beside {config.pretrained}: {listed}")
    config.dataset.preparation.update(given)


def _describe(config: DictConfig, dataset: SegmentationDataset, split: Split, sizes: Mapping[str, int]) -> str:
    """Line on method, cases and parameters, and a second one where classes are sides."""
    cases = ", ".join(f"{len(ids)} {side}" for side, ids in split.sides.items())
    cases += "" if config.split.test is None else " (the first by hash)"
    trained, total = sizes["trainable_parameters"], sizes["total_parameters"]
    line = f"{config.adapter.name} on {dataset.name}: {cases} cases; {trained:,} of {total:,} parameters train"
    return "\n".join([line, *filter(None, [dataset.task.describe_sides()])])
