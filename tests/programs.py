"""Running the scripts inside the test process, as a person would from the command line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
TINY = (  # seconds on one core; every part of a real run takes part
    "model=unetr_tiny", "pretrained=random", "trainer.max_steps=2", "data.steps_per_epoch=1",
    "trainer.precision=32-true", "logger=none",
)  # fmt: skip


def run_script(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `scripts/<name>.py` with arguments; returns the exit code."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    try:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
