"""A run that is gone on with keeps the plan that it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.config.resume import resumed
from tcurlora_seg.errors import UserError

PLAN = {"window": [48, 64, 48], "trainer.max_steps": 525, "training.class_weights": [1.0, 9.5], "data.batch_size": 2,
        "dataset.preparation.spacing": [1.0, 1.0, 1.0]}  # fmt: skip


def given(run: Path, **changes: Any) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        config = compose("train")
    for key, value in {"resume": str(run), **changes}.items():
        OmegaConf.update(config, key, value)
    return config


@pytest.fixture(autouse=True)
def _no_command_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    OmegaConf.save(given(tmp_path, resume=None, **PLAN), tmp_path / "config.yaml", resolve=True)
    return tmp_path


def test_what_the_command_line_leaves_open_stays_as_it_was_planned(run: Path) -> None:
    config = resumed(given(run))
    assert {key: OmegaConf.select(config, key) for key in PLAN} == PLAN


def test_another_window_than_the_planned_one_is_refused_and_more_steps_are_taken(run: Path) -> None:
    with pytest.raises(UserError, match=r"started with window=\[48, 64, 48\], not \[64, 64, 64\]"):
        resumed(given(run, window=[64, 64, 64]))
    assert resumed(given(run, **{"trainer.max_steps": 700})).trainer.max_steps == 700


def test_an_experiment_named_again_sets_nothing_that_the_user_did_not_name(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must be the run's own; the place of the data, the inference and the steps stay as they were."""
    command = ["experiment=mild", f"resume={run}", "inference.overlap=0.25"]
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        mild, again = compose("train", ["experiment=mild"]), compose("train", command, return_hydra_config=True)
    own = {"dataset.root": "elsewhere", "inference.mirror": False, "trainer.max_steps": 700}
    for key, value in own.items():
        OmegaConf.update(mild, key, value)
    OmegaConf.save(mild, run / "config.yaml", resolve=True)
    again.hydra.overrides.task = command
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.masked_copy(again, ["hydra"]))
    config = resumed(OmegaConf.masked_copy(again, [key for key in again if key != "hydra"]))
    assert {key: OmegaConf.select(config, key) for key in own} == own and config.inference.overlap == 0.25
    OmegaConf.update(again, "training.weights_fade", 0.5)
    with pytest.raises(UserError, match=r"started with training.weights_fade=1.0, not 0.5"):
        resumed(OmegaConf.masked_copy(again, [key for key in again if key != "hydra"]))


@pytest.mark.parametrize("rule", [{}, {"left": 2}])
def test_rules_by_structure_replace_those_of_the_run(run: Path, rule: dict[str, int]) -> None:
    stored = OmegaConf.load(run / "config.yaml")
    stored.inference.largest_pieces = {"left": 1, "right": 1}
    OmegaConf.save(stored, run / "config.yaml")
    assert resumed(given(run, **{"inference.largest_pieces": rule})).inference.largest_pieces == rule
