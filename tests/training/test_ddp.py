"""Two processes that share the batch train what one process with the whole batch trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from programs import SCRIPTS, TINY, run_script
from safetensors.torch import load_file

EXACT = ("trainer.precision=64-true", "trainer.accelerator=cpu", "model.dropout_rate=0", "trainer.max_steps=5",
         "data.steps_per_epoch=5", "training.average_last=0", "logger=none")  # fmt: skip


@pytest.mark.parametrize("adapter", ["tcurlora", "lora", "full"])
def test_two_processes_give_the_weights_of_one_with_the_whole_batch(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    rank = ["adapter.rank=2"] if adapter != "full" else []
    common = [*TINY, *EXACT, f"dataset.root={root}", f"outputs={tmp_path}", f"adapter={adapter}", *rank]
    assert run_script("train", *common, f"output={tmp_path / 'one'}", "test=null", "data.batch_size=4",
                      monkeypatch=monkeypatch) == 0  # fmt: skip
    both = [f"output={tmp_path / 'two'}", "trainer=ddp", "data.batch_size=2", "split.scheme=shots", "split.shots=5"]
    command = [sys.executable, str(SCRIPTS / "train.py"), *common, *both]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=alone)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        assert float((two[name] - tensor).double().norm()) <= 1e-10 * float(tensor.double().norm()), name
    cases = pd.read_csv(tmp_path / "two" / "evaluation" / "test" / "cases.csv")["case"]
    assert set(Counter(cases).values()) == {1} and len(cases) == 3
    assert done.stdout.count("run directory") == 1
