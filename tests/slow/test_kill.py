"""The power may fail at any moment: nothing trained is lost, and the end is the same to the last bit."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import torch
from programs import TINY, finish_script, start_script
from safetensors.torch import load_file

from tcurlora_seg.data.simulate import simulate

pytestmark = pytest.mark.slow
MOMENTS = 20
RUN = ("model.dropout_rate=0.1", "trainer.max_steps=24", "data.steps_per_epoch=3", "trainer.accumulate_grad_batches=2",
       "split.validation=1", "training.average_last=3", "logger=none")  # fmt: skip


@pytest.mark.parametrize("adapter", ["tcurlora", "adalora"])
def test_a_run_killed_at_twenty_random_moments_ends_the_same_every_time(tmp_path: Path, adapter: str) -> None:
    simulate("lpba40", tmp_path / "data", subjects=7, seed=0, spacing=8.0)
    log = tmp_path / "log"
    settings = (*TINY, *RUN, f"adapter={adapter}", f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path}")
    finish_script("train", log, *settings, f"output={tmp_path / 'warm-up'}")
    started = time.perf_counter()
    finish_script("train", log, *settings, f"output={tmp_path / 'whole'}")
    duration = time.perf_counter() - started
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    scores = json.loads((tmp_path / "whole" / "metrics.json").read_text())["scores"]
    draw, stages = random.Random(0), []
    for moment in range(MOMENTS):
        run = tmp_path / str(moment)
        process = start_script("train", log, *settings, f"output={run}")
        time.sleep(draw.uniform(0.02, 0.98) * duration)
        process.kill()
        process.join()
        known = run.is_dir() and any(run.iterdir())
        stages.append((known, (run / "checkpoints/last.ckpt").exists(), (run / "metrics.json").exists()))
        finish_script("train", log, *settings, f"{'resume' if known else 'output'}={run}")
        found = load_file(run / "model.safetensors")
        assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
        assert json.loads((run / "metrics.json").read_text())["scores"] == scores
    assert sum(last and not finished for _, last, finished in stages) >= MOMENTS // 4, "the kills missed the training"
    print(f"{MOMENTS} of {MOMENTS}: (directory, checkpoint, finished) at the moments: {stages}")
