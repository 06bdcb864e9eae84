"""Hundreds of runs in one process leave nothing behind: neither memory nor open files grow."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
from programs import TINY, run_script

from tcurlora_seg.data.simulate import simulate

pytestmark = pytest.mark.slow
RUNS = 200
GROWTH = 60 * 2**20
"""What the allocator may keep over a hundred and fifty runs; a leaked tiny network would be 1.3 MB a run."""


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def settings(tmp_path: Path) -> tuple[str, ...]:
    simulate("lpba40", tmp_path / "data", subjects=6, seed=0, spacing=8.0)
    return (*TINY, f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path}", "adapter.rank=2", "logger=tensorboard")


def test_two_hundred_trainings_and_evaluations_in_a_row(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, files = [], []
    for number in range(RUNS):
        run = tmp_path / "run"
        assert run_script("train", *settings, f"output={run}", "test=null", f"seed={number}",
                          monkeypatch=monkeypatch) == 0  # fmt: skip
        assert run_script("evaluate", f"checkpoint={run}", monkeypatch=monkeypatch) == 0
        shutil.rmtree(run)
        memory.append(resident())
        files.append(open_files())
    print(f"resident memory after 50 and {RUNS} runs: {memory[49] / 2**20:.0f} and {memory[-1] / 2**20:.0f} MiB")
    print(f"open files after 50 and {RUNS} runs: {files[49]} and {files[-1]}")
    assert memory[-1] - memory[49] < GROWTH
    assert files[-1] <= files[49]


def test_a_sweep_of_forty_jobs(settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(jobs: int, first: int) -> None:
        seeds = ",".join(map(str, range(first, first + jobs)))
        assert run_script("train", "-m", *settings, f"seed={seeds}", monkeypatch=monkeypatch) == 0

    sweep(20, 0)
    memory, files = resident(), open_files()
    sweep(40, 100)
    print(f"a sweep of 40: {(resident() - memory) / 2**20:+.0f} MiB, {open_files() - files:+d} open files")
    assert resident() - memory < GROWTH
    assert open_files() <= files
