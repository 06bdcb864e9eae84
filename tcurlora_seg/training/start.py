"""Where a run begins or goes on: its directory, its cases, its checkpoint, and what it notes before the first step."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json, write_json, write_text
from tcurlora_seg.training.directory import ANNOUNCED, environment, run_directory


def choose_directory(config: DictConfig, dataset: str) -> Path:
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


def is_finished(directory: Path, steps: int | None) -> bool:
    """Whether a run has ended that was allowed as many steps, be it before them (`training.patience`).

    Planned steps (None) follow from the data, so any run that has ended has had them.
    """
    path = directory / "metrics.json"
    if not path.exists():
        return False
    metrics = read_json(path)
    return steps is None or metrics.get("max_steps", metrics["steps"]) >= steps


def draw_cases(dataset: SegmentationDataset, split: DictConfig, *, overfit: int, directory: Path) -> Split:
    """The cases of a run, the same ones as when it began.

    Args:
        dataset: where they are.
        split: the configuration's section.
        overfit: train and test on so many training cases alone; 0 for a real run.
        directory: of the run.

    Raises:
        UserError: the cohort has changed, so that a case trained on might be scored.
    """
    drawn = dataset.split(**{str(key): value for key, value in split.items()})
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


def note_start(directory: Path, config: DictConfig, dataset: SegmentationDataset, split: Split, device: str) -> None:
    """Write what the run is made from: `config.yaml`, `split.json` and `environment.json`."""
    stored = OmegaConf.merge(config, {"dataset": dict(dataset.remembered)})
    write_text(directory / "config.yaml", OmegaConf.to_yaml(stored, resolve=True))
    write_json(directory / "split.json", _listed(split))
    write_json(directory / "environment.json", environment(device))


def readable_checkpoint(folder: Path) -> str | None:
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
