"""Collection of finished runs: where they are, what they scored, and which are repeats of one method."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tcurlora_seg.config.schema import flatten
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.data.split import SCHEMES
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.statistics import COLUMNS
from tcurlora_seg.files import read_json

_NEEDED = {
    "metrics.json": ("seed", "steps", "trainable_parameters", "step_seconds", "peak_memory_bytes", "file_bytes"),
    "environment.json": ("command", "device", "git_commit", "python", "platform", "packages", "time_utc"),
    "split.json": ("train",),
    "summary.json": ("dataset", "task", "simulated", "mean_dice"),
}
_SETTINGS = ("seed", "adapter.name", "adapter.rank", "split.scheme", "split.seed", "split.fold")  # of a config.yaml
_TEXTS = ("case", "patient", "structure", "status")
_ALWAYS = ("volume_ml", "reference_ml", "seconds")  # known for every row


@dataclass(frozen=True)
class FinishedRun:
    """A finished run as a comparison needs it.

    Attributes:
        directory: the run directory.
        config: its configuration as {dotted key: value}; "planned" where the value follows from the training cases.
        metrics, environment, summary: the JSON files of these names.
        cases: the rows of `cases.csv`.
        training_cases: their number.
        folder: the folder of the evaluation, with `cases.csv`.
    """

    directory: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    cases: pd.DataFrame
    training_cases: int
    folder: Path

    @property
    def foreign(self) -> bool:
        """Whether the label maps are another program's, to which the settings of training do not apply."""
        return "predictions" in self.summary

    @property
    def repeat(self) -> tuple[int, str]:
        """Seed of the training, and draw of the training cases: the seed of the split, or the name of a list."""
        scheme = self.config["split.scheme"]
        return self.config["seed"], str(self.config["split.seed"] if scheme in (None, *SCHEMES) else scheme)


def find_runs(places: str | Sequence[str], split: str) -> tuple[list[Path], list[str]]:
    """Finished runs in folders.

    Args:
        places: a folder, a pattern, or several of them.
        split: the folder under `evaluation/` that a finished run has.

    Returns:
        The run directories, sorted, and one line for each run that is not finished.

    Raises:
        UserError: a place that does not exist, or no finished run in any.
    """
    places = [places] if isinstance(places, str) else list(places)
    found: dict[Path, Path] = {}  # by the folder that a link leads to: a run counts once
    for place in places:
        whole = Path(place).expanduser()
        matches = [str(whole)] if whole.exists() else glob.glob(str(whole))
        if not matches:
            raise UserError(f"runs={place} does not exist: give a folder of runs, or a pattern in quotes")
        for match in matches:
            for config in sorted(glob.glob("**/config.yaml", root_dir=match, recursive=True)):  # not in .hydra
                directory = Path(match, config).parent
                found.setdefault(directory.resolve(), directory)
    finished, left_out = [], []
    for directory in sorted(found.values()):
        needed = ("metrics.json", f"evaluation/{split}/cases.csv")
        missing = [name for name in needed if not (directory / name).is_file()]
        if missing:
            left_out.append(f"{directory} is not finished: it has no {missing[0]}")
        else:
            finished.append(directory)
    if not finished:
        searched = ", ".join(map(str, places))
        hint = f"; {left_out[0]}" if left_out else ": a run has config.yaml and metrics.json"
        raise UserError(f"runs={searched}: no finished run there{hint}")
    return finished, left_out


def read_run(directory: Path, split: str) -> FinishedRun:
    """A finished run, read from its directory.

    Args:
        directory: the run directory.
        split: the folder under `evaluation/`.

    Raises:
        UserError: a file is missing or damaged; the text names it.
    """
    folder = directory / "evaluation" / split
    paths = {name: (folder if name == "summary.json" else directory) / name for name in _NEEDED}
    records = {}
    for name, path in paths.items():
        records[name] = read_json(path)
        lacking = [key for key in _NEEDED[name] if not isinstance(records[name], dict) or key not in records[name]]
        if lacking:
            raise UserError(f"{path} has no '{lacking[0]}': it is damaged or of another version; leave this run out")
    config = flatten(load_config(directory / "config.yaml"))
    planned = read_json(directory / "plan.json") if (directory / "plan.json").exists() else {}
    lacking = [key for key in _SETTINGS if key not in config]
    if lacking:
        raise UserError(f"{directory / 'config.yaml'} has no '{lacking[0]}': it is no configuration of a training run")
    return FinishedRun(
        directory=directory,
        config=config | dict.fromkeys(planned, "planned"),
        metrics=records["metrics.json"],
        environment=records["environment.json"],
        summary=records["summary.json"],
        cases=read_cases(folder / "cases.csv"),
        training_cases=len(records["split.json"]["train"]),
        folder=folder,
    )


def read_cases(path: Path) -> pd.DataFrame:
    """Checked rows of a `cases.csv`; a measure that an older file lacks is NaN.

    Raises:
        UserError: no table, columns missing, text where a number belongs, a case listed twice.
    """
    advice = "score the run again with scripts/evaluate.py, or leave it out"
    numbers = [column for column in COLUMNS if column not in _TEXTS]
    try:
        rows = pd.read_csv(path, dtype=dict.fromkeys(_TEXTS, str))
        lacking = [column for column in (*_TEXTS, *_ALWAYS) if column not in rows]
        if lacking:
            raise ValueError(f"it has no column {lacking[0]}")
        if "surface_dice" in rows:  # a missed structure had none before it was 0, as Dice
            rows.loc[rows["status"].isin(["missed", "false_alarm"]), "surface_dice"] = 0.0
        rows = rows.reindex(columns=list(COLUMNS))
        rows[numbers] = rows[numbers].astype(float)
        if rows.empty or rows[list(_TEXTS)].isna().any(axis=None):
            raise ValueError("it has no rows, or rows without a case")
        unknown = rows[list(_ALWAYS)].isna()
        timed = not unknown["seconds"].all()  # nobody measured another program's
        if unknown[["volume_ml", "reference_ml"]].any(axis=None) or (timed and unknown["seconds"].any()):
            raise ValueError("a row is cut short")
        if rows.duplicated(["case", "structure"]).any():
            raise ValueError("it lists a case twice")
    except (OSError, ValueError) as error:  # what pandas raises for a damaged table is a ValueError
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}; {advice}") from error
    return rows


def count_missed(run: FinishedRun, millimetres: float | None) -> FinishedRun:
    """A run with a distance for missed structures and false alarms, which have none.

    Without it a method that misses a hard case is judged by its easy ones.

    Args:
        run: the run.
        millimetres: that distance; None leaves the run as it is.

    Raises:
        UserError: no distance.
    """
    if millimetres is None:
        return run
    if not isinstance(millimetres, int | float) or not millimetres > 0:
        raise UserError(f"missed_mm={millimetres}: expected a distance above 0, such as 100, or null")
    cases = run.cases.copy()
    distances = [name for name in cases if name.endswith("_mm")]
    cases.loc[cases["status"].isin(["missed", "false_alarm"]), distances] = float(millimetres)
    return replace(run, cases=cases)


def newest_only(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], list[str]]:
    """Runs without exact repeats (equal settings and seeds), of which the newest counts.

    Returns:
        The runs, by directory, and one line for each that is left out.
    """
    newest: dict[tuple[Any, ...], FinishedRun] = {}
    left_out = []
    for run in sorted(runs, key=lambda run: (run.environment["time_utc"], str(run.directory))):
        key = (method_key(run), run.repeat, run.config["split.fold"], run.config.get("split.leave_out"))
        if key in newest:
            left_out.append(f"{newest[key].directory} repeats {run.directory}, which is newer")
        newest[key] = run
    return sorted(newest.values(), key=lambda run: str(run.directory)), left_out


_NOT_THE_METHOD = (  # repeats of one method may differ in these, and in nothing else
    "seed", "split.seed", "split.fold", "split.leave_out", "split.test", "resume", "output", "outputs", "sweep", "test",
    "dataset.root", "dataset.manifest", "dataset.download", "data.num_workers", "data.cache", "data.cache_dir",
    "trainer.log_every_n_steps", "trainer.accelerator", "trust", "training.on_divergence", "training.save_every",
    "training.histograms", "inference.pictures", "inference.batch_size",
)  # fmt: skip


def method_settings(run: FinishedRun) -> dict[str, str]:
    """Settings that make the method, as {dotted key: text}; of another program's label maps those of the data alone."""
    settings = {
        key: str(value)
        for key, value in run.config.items()
        if key not in _NOT_THE_METHOD and key.split(".")[0] != "logger"  # logger=none is one key
        and (not run.foreign or key.split(".")[0] in ("adapter", "dataset", "split"))
    }
    if Path(settings.get("pretrained", "")).parent.name == "bases":
        settings["pretrained"] = "random"  # stored once per seed
    if run.config["split.scheme"] not in (None, *SCHEMES):
        settings["split.scheme"] = f"a list of {run.training_cases} training cases"
    return settings


def method_key(run: FinishedRun) -> tuple[tuple[str, str], ...]:
    """Key of a method: equal for two runs exactly if they are repeats of one method."""
    return tuple(sorted(method_settings(run).items()))
