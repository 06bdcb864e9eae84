"""Folders of configurations that a command adds, in Hydra's own ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import TINY, run_script


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine" / "experiment" / "quick.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\ntrainer:\n  max_steps: 1\n")
    return tmp_path / "mine"


def added(folder: Path, way: str) -> list[str]:
    return ["--config-dir", str(folder)] if way == "--config-dir" else [f"hydra.searchpath=[file://{folder}]"]


@pytest.mark.parametrize("way", ["--config-dir", "hydra.searchpath"])
def test_they_are_run_listed_and_named_in_errors(
    way: str, folder: Path, cohort: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = added(folder, way)
    assert run_script("train", *given, "--help", monkeypatch=monkeypatch) == 0
    assert "pretrain_small, pretrain_tokens, quick, rank_curve" in capsys.readouterr().out
    assert run_script("train", *given, "experiment=slow", monkeypatch=monkeypatch) == 1
    assert "experiment=slow does not exist; choose from" in (error := capsys.readouterr().err) and "quick" in error
    tiny = [argument for argument in TINY if not argument.startswith("trainer.max_steps")]
    settings = (*tiny, f"dataset.root={cohort}", f"outputs={tmp_path}", f"output={tmp_path / 'run'}", "test=null")
    assert run_script("train", *given, "experiment=quick", *settings, monkeypatch=monkeypatch) == 0
    assert "max_steps: 1" in (tmp_path / "run" / "config.yaml").read_text()
