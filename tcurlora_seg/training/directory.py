"""Run directories: where a run writes, what it notes about itself, and whether it is finished."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

_PACKAGES = ("torch", "monai", "lightning", "hydra-core", "nibabel", "numpy", "safetensors", "tcurlora-seg")


def run_directory(config: DictConfig, dataset: str, *, sweep: bool) -> Path:
    """Where a run with this configuration writes.

    A single run gets `outputs/<dataset>/<adapter>/<time>`. A job of a sweep gets
    `outputs/sweeps/<name>/<hash of its resolved configuration>`: no two jobs collide, and the same command finds what
    it has already finished. No name holds `=`, a comma or a bracket, which Hydra's grammar trips over.
    """
    if config.get("output"):
        return Path(config.output)
    root = Path(config.outputs)
    if sweep:
        return root / "sweeps" / config.sweep / config_hash(config)
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent, number = root / dataset / config.adapter.name, 1
    path = parent / now
    while path.exists():
        number += 1
        path = parent / f"{now}_{number}"
    return path


def config_hash(config: DictConfig) -> str:
    """Twelve hexadecimal digits that change with every value of the resolved configuration."""
    plain = OmegaConf.to_container(config, resolve=True)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def environment(device: str) -> dict[str, Any]:
    """Versions, commit, device and command: what a reader needs to run it again."""
    return {
        "command": " ".join(sys.argv),
        "device": device,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions() -> Mapping[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with `-dirty` where files differ; None outside one."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
