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
                 f"outputs={folder}", "split.validation=1", "adapter.rank=2")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        assert run_script("train", *TINY, *arguments, monkeypatch=patch) == 0
    found = EventAccumulator(str(folder / "run" / "tensorboard"), {"histograms": 0, "images": 0, "scalars": 0})
    return found.Reload()


def test_curves_pictures_and_histograms_of_the_core_are_there(events: EventAccumulator) -> None:
    tags = events.Tags()
    assert {"train/loss_epoch", "val/dice", "test/mean_dice", "test/dice_hippocampus"} <= set(tags["scalars"])
    assert len([tag for tag in tags["images"] if tag.startswith("val/S")]) == 1
    assert len([tag for tag in tags["images"] if tag.startswith("test/S")]) == 3
    for stack, slices in (("attention", 48), ("up", 12), ("down", 12)):
        _, last = events.Histograms(f"adapters/{stack}/core")
        assert last.step == 2 and last.histogram_value.num == slices * 4
        assert last.histogram_value.max > last.histogram_value.min


def test_the_hparams_tab_has_every_setting_and_the_final_scores(events: EventAccumulator) -> None:
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["adapter.rank"].number_value == 2
    assert settings["adapter.name"].string_value == "tcurlora"
    assert settings["optimizer.lr"].number_value > 0
    finals = {tag for tag in events.Tags()["scalars"] if tag.startswith("final/")}
    assert {"final/test/mean_dice", "final/trainable_parameters", "final/validation_dice"} <= finals
