"""A run directory that an earlier state of this package has written is still resumed, scored, used and compared.

`old_run.zip` holds a run of the tiny network on `simulate=4` LPBA40-like heads, trained for 4 steps at commit 1e44d80,
and its base. Its config.yaml names modules and keys that have moved or gone since.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from programs import run_script

from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.config.schema import flatten
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.data.simulate import simulate

ARCHIVE = Path(__file__).with_name("old_run.zip")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The old run, in a working directory as it was."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    simulate("lpba40", tmp_path / "data" / "l", subjects=4, seed=0)
    monkeypatch.chdir(tmp_path)
    return Path("run")


def test_every_key_of_a_run_that_is_new_since_then_says_what_older_runs_did(old: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        now = flatten(compose("train"))
    groups = ("dataset.", "adapter.", "model.", "optimizer.", "trainer.", "logger.", "data.augmentation.")
    known = flatten(load_config(old / "config.yaml"))
    assert not [key for key in now if key not in known and not key.startswith(groups)]


def test_an_old_run_is_scored_used_exported_compared_and_resumed(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, *arguments: str) -> None:
        assert run_script(name, *arguments, monkeypatch=monkeypatch) == 0

    before = pd.read_csv(old / "evaluation" / "test" / "cases.csv")
    run("evaluate", f"checkpoint={old}", "split=test", "output=again")
    after = pd.read_csv("again/cases.csv")
    pd.testing.assert_series_equal(after["dice"], before["dice"], atol=1e-4)
    pd.testing.assert_series_equal(after["volume_ml"], before["volume_ml"], rtol=1e-3)
    image = next(Path("data").rglob("S03*stripped.hdr"))
    run("predict", f"checkpoint={old}", f"input={image}", "output=maps")
    run("export", f"checkpoint={old}", "output=plain.safetensors")
    run("compare", f"runs=[{old}]", "output=comparison")
    run("train", f"resume={old}", "trainer.max_steps=5")
    assert json.loads((old / "metrics.json").read_text())["steps"] == 5
    config = load_config(old / "config.yaml")
    assert config.window == config.model.img_size  # not one planned anew


def test_the_packaged_base_of_an_older_run_is_the_one_that_was_packaged_then(old: Path) -> None:
    path = old / "config.yaml"
    path.write_text(path.read_text().replace("pretrained: base.safetensors", "pretrained: builtin"))
    assert load_config(path).pretrained == "builtin_tumours"


def test_an_older_run_keeps_its_background_and_a_newer_one_may_leave_it_to_the_default(old: Path) -> None:
    path = old / "config.yaml"
    assert load_config(path).dataset.preparation.background == "zero"
    path.write_text(path.read_text() + "window: [16, 16, 16]\n")
    assert "background" not in load_config(path).dataset.preparation
