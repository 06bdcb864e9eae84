"""The power may fail at any moment: nothing trained is lost, and the end is the same to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs import TINY, run_script
from safetensors.torch import load_file

from tcurlora_seg.data.simulate import simulate

pytestmark = pytest.mark.slow
MOMENTS = 20
RUN = ("model.dropout_rate=0.1", "trainer.max_steps=24", "data.steps_per_epoch=3", "trainer.accumulate_grad_batches=2",
       "split.validation=1", "training.average_last=3", "logger=none")  # fmt: skip


def in_a_process_of_its_own(function: Callable[[], int], log: Path) -> int:
    """Fork, so that nothing needs to be imported anew; returns the process id. What it prints goes to `log`."""
    child = os.fork()
    if child == 0:
        with log.open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        os._exit(function())
    return child


def finishes(function: Callable[[], int], log: Path) -> None:
    _, status = os.waitpid(in_a_process_of_its_own(function, log), 0)
    assert status == 0, log.read_text()


@pytest.mark.parametrize("adapter", ["tcurlora", "adalora"])
def test_a_run_killed_at_twenty_random_moments_ends_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    simulate("lpba40", tmp_path / "data", subjects=7, seed=0, spacing=8.0)

    def train(*arguments: str) -> int:
        settings = (*TINY, *RUN, f"adapter={adapter}", f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path}")
        return run_script("train", *settings, *arguments, monkeypatch=monkeypatch)

    assert train(f"output={tmp_path / 'warm-up'}") == 0  # whatever is imported late is imported now
    started = time.perf_counter()
    log = tmp_path / "log"
    finishes(lambda: train(f"output={tmp_path / 'whole'}"), log)
    duration = time.perf_counter() - started
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    scores = json.loads((tmp_path / "whole" / "metrics.json").read_text())["scores"]
    draw, stages = random.Random(0), []
    for moment in range(MOMENTS):
        run = tmp_path / str(moment)
        child = in_a_process_of_its_own(lambda run=run: train(f"output={run}"), log)
        time.sleep(draw.uniform(0.02, 0.98) * duration)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        known = run.is_dir() and any(run.iterdir())
        stages.append((known, (run / "checkpoints/last.ckpt").exists(), (run / "metrics.json").exists()))
        go_on = (f"resume={run}",) if known else (f"output={run}",)
        finishes(lambda arguments=go_on: train(*arguments), log)
        found = load_file(run / "model.safetensors")
        assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
        assert json.loads((run / "metrics.json").read_text())["scores"] == scores
    assert sum(last and not finished for _, last, finished in stages) >= MOMENTS // 4, "the kills missed the training"
    print(f"{MOMENTS} of {MOMENTS}: (directory, checkpoint, finished) at the moments: {stages}")
