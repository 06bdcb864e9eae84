"""Run directories: their names, their locks, and the facts of a run's environment."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.paths import PACKAGE
from tcurlora_seg.config.sweep import slug
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import TEMPORARY, lock

ANNOUNCED = "TCURLORA_SEG_RUN_DIRECTORY"
"""Environment variable with the run directory, for the processes of the other devices."""

_PACKAGES = ("torch", "monai", "lightning", "hydra-core", "nibabel", "numpy", "safetensors", "tcurlora-seg")


def run_directory(config: DictConfig, dataset: str, *, sweep: bool) -> Path:
    """Directory of a run with this configuration.

    A single run gets `outputs/<dataset>/<adapter>/<time>`. A job of a sweep gets
    `outputs/sweeps/<name>/<what it differs in>_<hash of its resolved configuration>`: no two jobs collide, and the
    hash finds what the same command has already finished. No name holds `=`, a comma or a bracket, which Hydra's
    grammar trips over. A single run's folder is made at once: of two that start together each gets one of its own.

    Args:
        config: of the run.
        dataset: name of the data set.
        sweep: whether the run is a job of a sweep.

    Raises:
        UserError: the folder cannot be made.
    """
    if config.get("output"):
        return Path(config.output)
    root = Path(config.outputs)
    if sweep:
        plain = json.dumps(OmegaConf.to_container(config, resolve=True), sort_keys=True)
        parent, name = root / "sweeps" / config.sweep, hashlib.sha256(plain.encode()).hexdigest()[:12]
        begun = sorted(parent.glob(f"*{name}"))
        return begun[0] if begun else parent / "_".join(part for part in (slug(), name) if part)
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = root / dataset / config.adapter.name
    for number in count(1):
        path = parent / (now if number == 1 else f"{now}_{number}")
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(path, error) from error
    return path


def _unwritable(directory: Path, error: OSError) -> UserError:
    reason = "it is a file" if directory.is_file() else error.strerror
    return UserError(f"cannot write into {directory}: {reason}; choose another folder by output=")


def announced_directory(config: DictConfig) -> Path:
    """Run directory of the first process, for the others.

    Raises:
        UserError: nothing says so, since a launcher has started all processes at once.
    """
    place = config.resume or config.output or os.environ.get(ANNOUNCED)
    if not place:
        raise UserError("processes started by torchrun or SLURM must agree on the run directory: give output=DIR")
    return Path(place)


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Context manager for a lock on a run directory. The system lifts the lock of a process that dies.

    Raises:
        UserError: another process is at work there, or the folder cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(directory, error) from error
    with file:
        try:
            lock(file, wait=False)
            if os.fstat(file.fileno()).st_nlink == 0:  # removed by the process that held it until just now
                raise BlockingIOError
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"process {file.read().strip() or 'unknown'} is at work in {directory}: wait for it or stop it"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for place in (directory, directory / "checkpoints"):
            for torn in place.glob(f"{TEMPORARY}*"):  # by a kill while the run wrote
                torn.unlink()
        try:
            yield
        finally:
            with suppress(OSError):
                (directory / ".lock").unlink()
                directory.rmdir()  # unless there is anything in it


def environment(device: str) -> dict[str, Any]:
    """Facts to run it again: versions, commit, device and command."""
    return {
        "command": shlex.join(sys.argv),
        "device": device,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the checkout of this package, with `-dirty` where files differ; None outside a checkout."""
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")  # an installed copy may lie in somebody else's checkout
        return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
