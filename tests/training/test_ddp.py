"""Two processes that share the batch train what one process with the whole batch trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from programs import SCRIPTS, TINY, run_script
from safetensors.torch import load_file

EXACT = ("trainer.accelerator=cpu", "model.dropout_rate=0", "training.average_last=0", "logger=none")


@pytest.fixture(params=["tcurlora", "lora", "full"])
def train(
    request: pytest.FixtureRequest, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Train in one process into `one` and in two, with half the batch each, into `two`; what the two printed."""

    def run(*settings: str, two: tuple[str, ...]) -> str:
        rank = ["adapter.rank=2"] if request.param != "full" else []
        common = [*TINY, *EXACT, *settings, f"dataset.root={root}", f"outputs={tmp_path}", f"adapter={request.param}",
                  *rank]  # fmt: skip
        assert run_script("train", *common, f"output={tmp_path / 'one'}", "test=null", "data.batch_size=4",
                          monkeypatch=monkeypatch) == 0  # fmt: skip
        both = [f"output={tmp_path / 'two'}", "trainer=ddp", "data.batch_size=2", *two]
        command = [sys.executable, str(SCRIPTS / "train.py"), *common, *both]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=alone)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_two_processes_give_the_weights_of_one_with_the_whole_batch(train: Callable[..., str], tmp_path: Path) -> None:
    settings = ("trainer.precision=64-true", "trainer.max_steps=5", "data.steps_per_epoch=5", "split.validation=3",
                "training.probe=2", "training.class_weights=[1,3000]")  # so that something is found
    said = train(*settings, two=("split.scheme=shots", "split.shots=5"))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        assert float((two[name] - tensor).double().norm()) <= 1e-10 * float(tensor.double().norm()), name
    one_dice, two_dice = (json.loads((tmp_path / name / "metrics.json").read_text())["validation_dice"]
                          for name in ("one", "two"))  # fmt: skip
    assert one_dice == pytest.approx(two_dice, rel=1e-6) and one_dice > 0, "each has scored a part of three cases"
    cases = pd.read_csv(tmp_path / "two" / "evaluation" / "test" / "cases.csv")["case"]
    assert set(Counter(cases).values()) == {1} and len(cases) == 3
    assert said.count("run directory") == 1


def test_the_first_gradients_agree_in_single_precision(train: Callable[..., str], tmp_path: Path) -> None:
    """After one step Adam's first moment is a tenth of the gradient."""
    train("trainer.max_steps=1", two=("test=null",))
    paths = [tmp_path / name / "checkpoints/last.ckpt" for name in ("one", "two")]
    states = [torch.load(path, weights_only=True)["optimizer_states"][0]["state"] for path in paths]
    one, two = (torch.cat([state["exp_avg"].flatten() for state in each.values()]) for each in states)
    assert one.dtype == torch.float32 and float(one.norm()) > 0
    assert float((two - one).norm()) <= 1e-5 * float(one.norm())
