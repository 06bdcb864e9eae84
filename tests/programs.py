"""Running the scripts inside the test process, as a person would from the command line."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
TINY = (  # seconds on one core; every part of a real run but `training.probe`, with which so few steps find nothing
    "model=unetr_tiny", "pretrained=random", "trainer.max_steps=2", "data.steps_per_epoch=1",
    "trainer.precision=32-true", "training.probe=0", "logger=none",
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


def start_script(name: str, log: Path, *arguments: str) -> BaseProcess:
    """Run `scripts/<name>.py` in a process of its own, which may be killed; what it prints goes to `log`.

    The process is forked from one that has imported everything and computed nothing: a fork of a process in which
    PyTorch has started its threads may fail, and a new interpreter would spend its time on imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tcurlora_seg.training.run"])
    process = context.Process(target=_script, args=(name, str(log), *arguments))
    process.start()
    return process


def finish_script(name: str, log: Path, *arguments: str) -> None:
    """Run it to its end, which must be a good one."""
    process = start_script(name, log, *arguments)
    process.join()
    assert process.exitcode == 0, log.read_text()


def _script(name: str, log: str, *arguments: str) -> None:
    with Path(log).open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    with pytest.MonkeyPatch.context() as patch:
        code = run_script(name, *arguments, monkeypatch=patch)
    sys.exit(code)
