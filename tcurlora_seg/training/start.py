"""Start of a run, new or resumed: directory, cases, checkpoint, and the files written before the first step."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.resume import other_setting
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.fingerprint import contents
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json, write_json, write_text
from tcurlora_seg.inference.stored import CONTENTS, changed_files
from tcurlora_seg.training.directory import ANNOUNCED, environment, run_directory

_KEYS = {"state_dict", "optimizer_states", "global_step", "epoch"}  # of a checkpoint


def choose_directory(config: DictConfig, dataset: str) -> Path:
    """Run directory, new or to go on with.

    Raises:
        UserError: a folder that holds something else, or another job's run.
    """
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    directory = Path(config.resume) if config.resume else run_directory(config, dataset, sweep=multirun)
    if not (config.resume or multirun) and directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"output={directory} is not empty: choose another folder, or resume={directory} to go on")
    other = other_setting(directory, config) if multirun and config.output else ""
    if other:
        raise UserError(f"output={directory} holds the run with {other}: a job of a sweep needs a folder of its own; "
                        "leave output out, and sweep=NAME names them")  # fmt: skip
    os.environ[ANNOUNCED] = str(directory)  # for the processes of the other devices
    return directory


def is_finished(directory: Path, steps: int | None) -> bool:
    """Whether a run has ended that was allowed as many steps; early stopping may have ended it before them.

    Planned steps (None) follow from the data: any run that has ended has had them.

    Args:
        directory: of the run.
        steps: `trainer.max_steps`.
    """
    path = directory / "metrics.json"
    if not path.exists():
        return False
    metrics = read_json(path)
    return steps is None or metrics.get("max_steps", metrics["steps"]) >= steps


def draw_cases(dataset: SegmentationDataset, split: DictConfig, *, overfit: int, directory: Path) -> Split:
    """Split of a run, the same one as when it began.

    Args:
        dataset: where they are.
        split: the configuration's section.
        overfit: train and test on so many training cases alone; 0 for a real run.
        directory: of the run.

    Raises:
        UserError: the cohort has changed, so that a case trained on might be scored; fewer cases than `overfit`.
    """
    cases = dataset.manifest().cases
    if overfit and len(cases) == 1:  # nothing to draw
        drawn = Split(train=(cases[0].id,), val=(), test=())
    else:
        drawn = dataset.split(**{str(key): value for key, value in split.items()})
    if overfit > len(drawn.train):
        raise UserError(f"overfit={overfit}: there are no more than {len(drawn.train)} training case(s)")
    if overfit:
        learned = drawn.train[:overfit]
        drawn = Split(train=learned, val=(), test=learned)
    path = directory / "split.json"
    if path.exists() and read_json(path) != _listed(drawn):
        raise UserError(
            f"the cohort has changed since {directory} began: its split is another one now than in {path}; "
            "restore the cohort or its manifest, or start a new run"
        )
    return drawn


def _listed(split: Split) -> dict[str, list[str]]:
    return {side: list(ids) for side, ids in split.sides.items()}


def note_start(
    directory: Path,
    config: DictConfig,
    dataset: SegmentationDataset,
    split: Split,
    device: str,
    planned: Sequence[str],
) -> None:
    """Write the inputs of a run: `config.yaml`, `split.json`, `environment.json`, and once `data.json`, `plan.json`.

    Args:
        directory: of the run.
        config: of the run, completed by the plan.
        dataset: where the cases are.
        split: the cases.
        device: name of the device.
        planned: dotted keys of the values that follow from the training cases.
    """
    stored = OmegaConf.merge(config, {"dataset": dict(dataset.remembered)})
    write_text(directory / "config.yaml", OmegaConf.to_yaml(stored, resolve=True))
    write_json(directory / "split.json", _listed(split))
    write_json(directory / "environment.json", environment(device))
    if not (directory / CONTENTS).exists():
        values = OmegaConf.create({key: OmegaConf.select(config, key) for key in planned})
        write_json(directory / "plan.json", OmegaConf.to_container(values))
        ids = [id for side in split.sides.values() for id in side]
        write_json(directory / CONTENTS, contents(map(dataset.manifest().case, ids), dataset.root))
    for line in dataset.left_aside():
        print(line)


def set_aside(directory: Path) -> None:
    """Move what a finished run left into `until_step_N`, before it goes on: those are not the longer run's results.

    Args:
        directory: of the run; one that has not ended is left as it is.
    """
    if not (directory / "metrics.json").exists():
        return
    place = directory / f"until_step_{read_json(directory / 'metrics.json')['steps']}"
    place.mkdir(exist_ok=True)
    for name in ("metrics.json", "model.safetensors", "evaluation"):  # without the first a run is not finished
        if (directory / name).exists() and not (place / name).exists():
            os.replace(directory / name, place / name)
    print(f"its results so far are in {place}")


def check_data(directory: Path, dataset: SegmentationDataset) -> None:
    """Check that a run's files still hold what they held when it began.

    Args:
        directory: of the run; one that has not begun passes.
        dataset: where the files are.

    Raises:
        UserError: one does not: the run's weights and scores belong to other data.
    """
    changes = changed_files(directory, dataset)
    if changes:
        raise UserError(f"{changes}: put back what it was, or start a new run (in a sweep by sweep=NAME)")


class Checkpoint(NamedTuple):
    """Checkpoint to go on from.

    Attributes:
        path: its file.
        step: number of optimiser steps taken.
        epoch: number of whole epochs before it.
    """

    path: str
    step: int
    epoch: int


def readable_checkpoint(folder: Path) -> Checkpoint | None:
    """The last checkpoint, or the one before it where the last is damaged; None where there is none.

    Raises:
        UserError: there are checkpoints, but none that can be read.
    """
    found = [path for path in (folder / "last.ckpt", folder / "previous.ckpt") if path.exists()]
    for path in found:
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            if not isinstance(state, dict) or not state.keys() >= _KEYS:
                raise ValueError("it is no checkpoint of a run")
            epochs = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            if path != found[0]:  # so that a damaged one never takes the place of this
                os.replace(found[0], found[0].with_suffix(".damaged"))
            return Checkpoint(str(path), state["global_step"], epochs)
        except Exception as error:  # torch.load raises what unpickling any bytes may raise
            reason = str(error).split("\n")[0] or type(error).__name__
            warnings.warn(f"{path} is damaged ({reason}): it is passed over", stacklevel=2)
    if found:
        raise UserError(f"no checkpoint in {folder} can be read: start anew with another output")
    return None


def describe_resumption(checkpoint: Checkpoint, directory: Path, max_steps: int) -> str:
    """Line on the step where a run goes on, and on a changed schedule.

    Args:
        checkpoint: of the run.
        directory: of the run; its config.yaml holds the number of steps so far.
        max_steps: number of steps from now on.
    """
    line = f"goes on after step {checkpoint.step} of {max_steps}, in epoch {checkpoint.epoch + 1}"
    before = load_config(directory / "config.yaml").trainer.max_steps
    if before != max_steps:
        line += f"; trainer.max_steps was {before}: from here the learning rate falls as in a run of {max_steps} steps"
    return line
