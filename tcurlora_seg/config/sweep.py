"""Sweeps: names of the jobs, their common table, and how they are stopped.

The process that starts a sweep describes it in an environment variable. Jobs inherit it in whatever process they run,
joblib's workers and submitit's jobs too.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.files import atomic_path, lock

SWEEP = "TCURLORA_SEG_SWEEP"
TABLE = "sweep.csv"
COLUMNS = ("job", "status", "dice", "seconds", "ended", "directory", "message")
_STATES = ("finished", "skipped", "stopped", "failed")
_began = datetime.now(UTC)


class Announce(Callback):
    """Hydra callback at the start of a sweep: it records the folder, the number of jobs, and the keys that differ."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        settings = config.hydra
        folder = Path(settings.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        swept = (settings.sweeper.get("params") or {}).items()  # as experiment=table1 has them
        keys, total = _varied([*(f"{key}={value}" for key, value in swept), *settings.overrides.task])
        (folder / _flag(os.getpid())).unlink(missing_ok=True)
        note = {"folder": str(folder), "keys": keys, "total": total, "started": _now(), "process": os.getpid()}
        os.environ[SWEEP] = json.dumps(note)
        if not settings.launcher._target_.endswith("BasicLauncher"):  # its jobs hear the signal themselves
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _ask_to_stop)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _varied(overrides: Sequence[str]) -> tuple[list[str], int | None]:
    """Keys of a sweep with several values, and the number of jobs; None if a sweeper draws the values."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    values: dict[str, list[str]] = {}
    for override in parser.parse_overrides(list(overrides)):
        if not override.is_sweep_override():
            values.pop(override.get_key_element(), None)
            continue
        try:
            values[override.get_key_element()] = list(dict.fromkeys(override.sweep_string_iterator()))
        except (HydraException, AssertionError, ValueError):  # an interval has no list of values
            return [*values, override.get_key_element()], None
    return [key for key, given in values.items() if len(given) > 1], math.prod(map(len, values.values()))


def running() -> bool:
    """Whether this is a job of a sweep."""
    return SWEEP in os.environ and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def sweep() -> dict[str, Any] | None:
    """Record of the sweep that this job belongs to; None outside a sweep."""
    return json.loads(os.environ[SWEEP]) if SWEEP in os.environ else None


def words() -> list[str]:
    """Words that tell this job from the others, such as ["lora", "rank 4", "seed 1"]."""
    given = dict(override.lstrip("+~").partition("=")[::2] for override in HydraConfig.get().overrides.task)
    values = {key: given.get(key, "").strip("'\"") for key in (sweep() or {}).get("keys", [])}
    groups = config_folder()
    return [v if (groups / key).is_dir() else f"{key.rpartition('.')[2]} {v}" for key, v in values.items()]


def slug() -> str:
    """`words` as the name of a folder, without characters that Hydra's grammar cannot read."""
    parts = (re.sub(r"[^A-Za-z0-9.-]+", "", word) for word in words())
    return "_".join(part for part in parts if part)[:80]


def begin() -> None:
    """Print which job of how many starts, and about how long the rest takes."""
    global _began
    _began = datetime.now(UTC)
    note = sweep() or {}
    total = note.get("total")
    line = f"job {HydraConfig.get().job.num + 1}" + (f" of {total}" if total else "")
    line += f": {', '.join(words())}" if words() else ""
    ended = [row for row in read_table(Path(note["folder"])) if row["ended"] >= note["started"]]
    worked = [row for row in ended if row["status"] != "skipped"]
    if total and worked:
        passed = (_began - datetime.fromisoformat(note["started"])).total_seconds()
        line += f"; about {max(1, round(passed / len(worked) * (total - len(ended)) / 60))} min to go"
    print(f"\n{line}", flush=True)


def record(status: str, *, directory: str = "", dice: float | None = None, message: str = "") -> None:
    """Record the end of this job in `sweep.csv`; it replaces the line of an earlier try, whose folder may be unknown.

    Args:
        status: finished, skipped, stopped or failed.
        directory: the run directory.
        dice: mean over the structures of the scored split.
        message: error message of a failed job.
    """
    note = sweep()
    if note is None:
        return
    folder, name = Path(note["folder"]), ", ".join(words())
    row = {
        "job": name, "status": status, "dice": "" if dice is None else f"{dice:.4f}",
        "seconds": f"{(datetime.now(UTC) - _began).total_seconds():.0f}", "ended": _now(), "directory": directory,
        "message": message,
    }  # fmt: skip
    with (folder / f".{TABLE}.lock").open("w") as guard:
        lock(guard)
        known = {directory, ""} if directory else None  # of an unknown folder: all lines of that name
        others = [old for old in read_table(folder) if old["job"] != name or (known and old["directory"] not in known)]
        with atomic_path(folder / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows([*others, row])


def read_table(folder: Path) -> list[dict[str, str]]:
    """Lines of `sweep.csv`, in the order in which the jobs ended."""
    path = folder / TABLE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ask_to_stop() -> None:
    """Stop this sweep: each job at its next step, and no other one starts."""
    note = sweep()
    if note is not None:
        (Path(note["folder"]) / _flag(note["process"])).touch()


def asked_to_stop() -> bool:
    """Whether this sweep is to stop."""
    note = sweep()
    return note is not None and (Path(note["folder"]) / _flag(note["process"])).exists()


def _flag(process: int) -> str:
    return f".stop_{process}"


def _ask_to_stop(signum: int, frame: FrameType | None) -> None:
    """Signal handler: the first signal lets the workers save, a second one acts as without a handler."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    ask_to_stop()
    print("stopping: every job saves the step in hand", file=sys.stderr, flush=True)


def close() -> int:
    """Print the table of the sweep that this process started, and remove its record.

    Returns:
        The exit code: 0, 1 if a job failed, 130 if the sweep was stopped.
    """
    note = sweep()
    if note is None or note["process"] != os.getpid():
        return 0
    stopped, folder = asked_to_stop(), Path(note["folder"])
    (folder / _flag(note["process"])).unlink(missing_ok=True)
    (folder / f".{TABLE}.lock").unlink(missing_ok=True)
    del os.environ[SWEEP]
    rows = [row for row in read_table(folder) if row["ended"] >= note["started"]]
    counts = {status: sum(row["status"] == status for row in rows) for status in _STATES}
    total = note["total"] or len(rows)
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    print(f"\nsweep {folder / TABLE if rows else folder}: {told or 'none'} of {total}")
    width = max((len(row["job"]) for row in rows), default=0)
    for row in rows:
        dice = f"Dice {float(row['dice']):.3f}" if row["dice"] else ""
        line = f"  {row['job']:<{width}}  {row['status']:<8}  {dice:<10}  {row['seconds']:>6} s  {row['directory']}"
        print(line.rstrip(), flush=True)
    left = total - counts["finished"] - counts["skipped"]
    if stopped:
        print(f"stopped: run the same command again, it goes on with the {left} that are left", file=sys.stderr)
    elif counts["failed"]:
        print(f"error: {counts['failed']} job(s) failed: mend what their errors say and run the same command again, it "
              f"goes on with the {left} that are left", file=sys.stderr)  # fmt: skip
    return 130 if stopped else int(bool(counts["failed"]))
