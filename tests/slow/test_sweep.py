"""A sweep that was killed in the middle goes on with the same command and ends with the same table."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from programs import SCRIPTS, TINY, finish_script, run_script, start_script

from tcurlora_seg.data.simulate import simulate

pytestmark = pytest.mark.slow


def test_an_interrupted_sweep_ends_with_the_table_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate("lpba40", tmp_path / "data", subjects=8, seed=0, spacing=8.0)

    def sweep(name: str) -> tuple[str, ...]:
        return ("-m", *TINY, f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path / name}",
                "adapter=tcurlora,lora", "adapter.rank=2", "seed=0,1", "trainer.max_steps=8",
                "data.steps_per_epoch=2")  # fmt: skip

    def table(name: str) -> pd.DataFrame:
        output = tmp_path / f"table_{name}"
        assert run_script("compare", f"runs={tmp_path / name}", f"output={output}", monkeypatch=monkeypatch) == 0
        found = pd.read_csv(output / "comparison.csv")
        measured = [c for c in found if any(word in c for word in ("second", "memory", "bytes", "MB", "GiB"))]
        return found.drop(columns=measured)

    log = tmp_path / "log"
    finish_script("train", log, *sweep("whole"))
    process = start_script("train", log, *sweep("cut"))
    finished: list[Path] = []
    while len(finished) < 2:  # the third job is at work
        time.sleep(0.05)
        assert process.is_alive(), log.read_text()
        finished = list((tmp_path / "cut").rglob("metrics.json"))
    time.sleep(0.5)
    process.kill()
    process.join()
    untouched = {path: path.stat().st_mtime_ns for path in finished}
    assert len(list((tmp_path / "cut").rglob("metrics.json"))) < 4
    finish_script("train", log, *sweep("cut"))
    assert all(path.stat().st_mtime_ns == changed for path, changed in untouched.items())
    pd.testing.assert_frame_equal(table("cut"), table("whole"))


def test_every_job_of_a_parallel_sweep_saves_when_it_is_stopped(tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches every process of the group."""
    simulate("lpba40", tmp_path / "data", subjects=8, seed=0, spacing=8.0)
    arguments = ("-m", *TINY, f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path}", "adapter.rank=2",
                 "seed=0,1,2",
                 "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "trainer.max_steps=60", "data.steps_per_epoch=30",
                 "training.average_last=0", "test=null")  # fmt: skip
    command, log = [sys.executable, SCRIPTS / "train.py", *arguments], tmp_path / "log"
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        while log.read_text().count("step 30/60") < 2:
            time.sleep(0.05)
            assert process.poll() is None, log.read_text()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=300) == 130, log.read_text()
    text = log.read_text()
    told = sorted(map(int, re.findall(r"SIGINT: saved after step (\d+)", text)))
    steps = [torch.load(path, weights_only=True)["global_step"] for path in tmp_path.rglob("last.ckpt")]
    assert len(steps) == 2 and sorted(steps) == told and "2 stopped of 3" in text, text
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and "3 finished of 3" in again.stdout, again.stdout + again.stderr
