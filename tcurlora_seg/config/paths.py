"""Paths of the shipped folders: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_ASSETS = PACKAGE / "assets"
PACKAGED = {
    "builtin": _ASSETS / "unetr_small.safetensors",
    "builtin_tumours": _ASSETS / "unetr_small_tumours.safetensors",
}
"""Packaged bases by name: of synthesised heads, and of version 0.1.0's simulated tumours, which its runs refer to."""


def packaged(source: str | Path) -> Path:
    """Path of weights that are given by the name of a packaged base, or by a path."""
    return PACKAGED.get(str(source), Path(source))


def shipped(name: str) -> Path:
    """Folder `name` of the checkout, or its copy in an installed wheel."""
    checkout = PACKAGE.parent / name
    return checkout if checkout.is_dir() else PACKAGE / name


def config_folder() -> Path:
    """Folder of the YAML files."""
    return shipped("configs")


def options(group: str) -> dict[str, Path]:
    """YAML files of a config group, such as `adapter`, by name."""
    return {path.stem: path for path in sorted((config_folder() / group).glob("*.yaml"))}
