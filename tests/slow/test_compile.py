"""A training whose steps `torch.compile` translates to C++."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from programs import TINY, run_script
from torch._dynamo.utils import counters

from tcurlora_seg.data.simulate import simulate

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")]


def test_a_training_with_compiled_steps_ends_with_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate("lpba40", tmp_path / "data", subjects=7, seed=0, spacing=8.0)
    torch.compiler.reset()
    counters.clear()
    settings = (*TINY, f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path}", f"output={tmp_path / 'run'}")
    assert run_script("train", *settings, "adapter=tcurlora", "training.compile=true", monkeypatch=monkeypatch) == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["scores"]["cases"] == 2
    assert counters["frames"]["ok"] > 0
