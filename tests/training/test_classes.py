from __future__ import annotations

import warnings
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tcurlora_seg.training.classes import ClassWatch

BATCH = torch.tensor([0, 0, 0, 1, 1, 2]).reshape(1, 1, 6, 1, 1)


class Blind(lightning.LightningModule):
    """Predicts the labels, but for `missing` where it says background; from step `sees_from` on it sees it."""

    def __init__(self, missing: int, sees_from: int) -> None:
        super().__init__()
        self.missing, self.sees_from = missing, sees_from
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any) -> dict[str, Tensor]:
        label = batch["label"][:, 0]
        seen = self.global_step >= self.sees_from
        return {"loss": self.weight * 1.0, "predicted": label if seen else label.where(label != self.missing, 0)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def watch_a_run(missing: int, sees_from: int = 1000, label: Tensor = BATCH) -> tuple[ClassWatch, list[str]]:
    watch = ClassWatch({"head": (1,), "tail": (2,), "both": (1, 2)}, classes=3, patience=8)
    trainer = lightning.Trainer(
        max_steps=24, callbacks=[watch], logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, accelerator="cpu",
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Blind(missing, sees_from), DataLoader([{"label": label[0]}] * 4, batch_size=1))
    return watch, [str(w.message) for w in caught if "was predicted" in str(w.message)]


def test_a_structure_that_is_never_predicted_is_warned_of_once_and_again_at_the_end() -> None:
    watch, said = watch_a_run(missing=2)
    assert len(said) == 2
    assert said[0].startswith("no voxel of tail was predicted for 8 steps") and "class_weights" in said[0]
    assert said[1].startswith("no voxel of tail was predicted at the end")
    assert watch.lost == ["tail"]
    assert watch.ratios == {"head": 1.0, "tail": 0.0, "both": pytest.approx(2 / 3)}


def test_a_structure_that_comes_late_is_warned_of_but_not_lost() -> None:
    watch, said = watch_a_run(missing=1, sees_from=12)
    assert len(said) == 1 and "head" in said[0]
    assert watch.lost == []


def test_what_the_labels_lack_is_not_asked_for() -> None:
    watch, said = watch_a_run(missing=2, label=BATCH.clamp(max=1))
    assert not said and watch.lost == [] and watch.ratios["tail"] is None


def test_voxels_to_be_ignored_are_not_counted() -> None:
    watch = ClassWatch({"tail": (2,)}, classes=3)
    label = torch.tensor([0, 2, 255, 255]).reshape(1, 1, 4, 1, 1)
    watch.on_train_batch_end(None, None, {"predicted": label[:, 0] * 0 + 2}, {"label": label})  # type: ignore[arg-type]
    assert watch.state_dict()["counts"].tolist() == [[0, 0, 2], [1, 0, 1]]


def test_the_counts_of_half_an_epoch_travel_through_a_checkpoint() -> None:
    batch = {"label": BATCH}
    one, two = (ClassWatch({"tail": (2,)}, classes=3) for _ in range(2))
    one.on_train_batch_end(None, None, {"predicted": BATCH[:, 0]}, batch)  # type: ignore[arg-type]
    two.load_state_dict(one.state_dict())
    two.on_train_batch_end(None, None, {"predicted": BATCH[:, 0] * 0}, batch)  # type: ignore[arg-type]
    counts = two.state_dict()["counts"]
    assert counts.tolist() == [[9, 2, 1], [6, 4, 2]]
