"""What a person sees in TensorBoard, read back from the files that a run has written."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import TINY, run_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2


@pytest.fixture(scope="module")
def events(root: Path, tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    folder = tmp_path_factory.mktemp("run")
    arguments = ("logger=tensorboard", f"dataset.root={root}", f"output={folder / 'run'}",
                 f"outputs={folder}", "split.validation=1", "adapter.rank=2", "training.histograms=true",
                 "trainer.log_every_n_steps=1")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        assert run_script("train", *TINY, *arguments, monkeypatch=patch) == 0
    found = EventAccumulator(str(folder / "run" / "tensorboard"), {"histograms": 0, "images": 0, "scalars": 0})
    return found.Reload()


def test_dice_and_one_overlay_come_first_and_each_is_written_once(events: EventAccumulator) -> None:
    tags = events.Tags()
    scalars = {"train/loss_epoch", "dice/val", "dice/test", "dice/test_hippocampus", "run/step_seconds"}
    assert scalars <= set(tags["scalars"])
    assert tags["images"] == ["dice/overlay_val", "dice/overlay_test"]
    assert min(tags["scalars"]).startswith("dice/")
    assert not [tag for tag in tags["scalars"] if tag.startswith(("final/", "hp_metric"))]
    assert len(events.Scalars("dice/test")) == 1
    assert {tag for tag in tags["scalars"] if tag.startswith("lr-")} == {"lr-AdamW/base", "lr-AdamW/adapters"}


def test_histograms_of_the_core_are_there_where_asked_for(events: EventAccumulator) -> None:
    for stack, slices in (("attention", 48), ("up", 12), ("down", 12)):
        _, last = events.Histograms(f"adapters/{stack}/core")
        assert last.step == 2 and last.histogram_value.num == slices * 4
        assert last.histogram_value.max > last.histogram_value.min


def test_the_hparams_tab_has_ten_settings_and_the_final_scores(events: EventAccumulator) -> None:
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert len(settings) == 10
    assert settings["rank"].number_value == 2 and settings["lr"].number_value > 0
    assert (settings["method"].string_value, settings["model"].string_value) == ("tcurlora", "unetr")
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    shown = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.metric_infos
    assert {"dice/test", "dice/val", "run/trainable_parameters"} <= {metric.name.tag for metric in shown}


def test_other_loggers_of_lightning_get_the_same_figures(root: Path, tmp_path: Path) -> None:
    arguments = ("logger=csv", f"dataset.root={root}", f"output={tmp_path / 'run'}", f"outputs={tmp_path}",
                 "trainer.log_every_n_steps=1")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        assert run_script("train", *TINY, *arguments, monkeypatch=patch) == 0
    (path,) = (tmp_path / "run").rglob("metrics.csv")
    assert {"dice/test", "train/loss_epoch", "run/step_seconds"} <= set(path.read_text().splitlines()[0].split(","))
    before = path.read_text()
    with pytest.MonkeyPatch.context() as patch:
        assert run_script("train", f"resume={tmp_path / 'run'}", "trainer.max_steps=3", monkeypatch=patch) == 0
    assert (tmp_path / "run" / "csv_1" / "metrics.csv").read_text() == before and path.read_text() != before
