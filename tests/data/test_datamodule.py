from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from tcurlora_seg.data import volume
from tcurlora_seg.data.augmentation import Augmentation
from tcurlora_seg.data.augmentation.strong import StrongAugmentation
from tcurlora_seg.data.datamodule import SegmentationDataModule
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.data.prepared import PreparedCase
from tcurlora_seg.data.volume import read_header

SPLIT = Split(("S01", "S02", "S03"), ("S04",), ("S05", "S06"))


@pytest.fixture
def data(lpba40: Callable[..., LPBA40]) -> Callable[..., SegmentationDataModule]:
    def make(**changes: Any) -> SegmentationDataModule:
        arguments: dict[str, Any] = {
            "dataset": lpba40(task="hippocampus_lr"),
            "split": SPLIT,
            "crop": [16, 16, 16],
            "batch_size": 2,
            "steps_per_epoch": 5,
            "augmentation": Augmentation(),
        }
        return SegmentationDataModule(**{**arguments, **changes})

    return make


def epoch(module: SegmentationDataModule) -> list[dict[str, Tensor]]:
    module.setup("fit")
    return list(module.train_dataloader())


def equal(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in ("image", "label")
    )


def test_the_first_samples_are_those_of_the_first_batches(data: Callable[..., SegmentationDataModule]) -> None:
    module = data(seed=3)
    batches = epoch(module)
    first = list(module.first_samples(4))
    for key in ("image", "label"):
        assert torch.equal(torch.stack([sample[key] for sample in first]), torch.cat([b[key] for b in batches[:2]]))


def test_batches_have_the_shapes_and_types_that_training_expects(data: Callable[..., SegmentationDataModule]) -> None:
    batches = epoch(data())
    assert len(batches) == 5
    for batch in batches:
        assert batch["image"].shape == batch["label"].shape == (2, 1, 16, 16, 16)
        assert type(batch["image"]) is Tensor and batch["image"].dtype == torch.float32
        assert batch["label"].dtype == torch.uint8 and int(batch["label"].max()) <= 2


@pytest.mark.parametrize("kind", [Augmentation, StrongAugmentation])
def test_batches_do_not_depend_on_workers_or_cache(
    data: Callable[..., SegmentationDataModule], tmp_path: Path, kind: Any
) -> None:
    data = partial(data, augmentation=kind())
    alone = epoch(data())
    assert equal(alone, epoch(data(num_workers=2)))
    assert equal(alone, epoch(data(cache="disk", cache_dir=str(tmp_path), num_workers=1)))
    assert equal(alone, epoch(data(cache="none")))
    assert not equal(alone, epoch(data(seed=1)))


def test_a_case_is_drawn_anew_in_every_lap(data: Callable[..., SegmentationDataModule]) -> None:
    samples = [x for batch in epoch(data(steps_per_epoch=9)) for x in batch["image"]]
    assert not any(torch.equal(a, b) for i, a in enumerate(samples) for b in samples[:i])


class Recorder(lightning.LightningModule):
    """Trains one number and keeps a fingerprint of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.seen.append(float(batch["image"].double().sum()))
        return self.weight * 1.0

    def validation_step(self, batch: PreparedCase) -> None:
        assert batch.case == "S04"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    module: SegmentationDataModule, steps: int, checkpoint: Path | None = None, **options: Any
) -> tuple[list[float], Any]:
    recorder = Recorder()
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, use_distributed_sampler=False, **options,
    )  # fmt: skip
    trainer.fit(recorder, datamodule=module, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    return recorder.seen, trainer


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_resumed_run_sees_the_samples_of_an_uninterrupted_one(
    data: Callable[..., SegmentationDataModule], tmp_path: Path, stop: int, accumulate: int
) -> None:
    options = {"accumulate_grad_batches": accumulate}
    whole, _ = fit(data(steps_per_epoch=3), 12, **options)
    assert len(whole) == len(set(whole)) == 12 * accumulate
    first, trainer = fit(data(steps_per_epoch=3), stop, **options)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    rest, _ = fit(data(steps_per_epoch=3), 12, tmp_path / "last.ckpt", **options)
    assert first + rest == whole


def test_validation_gives_whole_cases_one_by_one(data: Callable[..., SegmentationDataModule]) -> None:
    module = data(split=Split(("S01",), ("S05", "S06"), ("S02",)))
    module.setup("fit")
    items = list(module.val_dataloader())
    assert [item.case for item in items] == ["S05", "S06"]
    for item in items:
        assert item.image.ndim == 4 and item.label.shape[1:] == item.image.shape[1:]
        assert item.native_label.shape == (45, 54, 45) and item.native_label.dtype == torch.uint8
        back = module.dataset.preparation.invert(item.label.as_tensor(), item.image, nearest=True)
        assert torch.equal(back[0].to(torch.uint8), item.native_label)


def test_headers_are_read_once(
    data: Callable[..., SegmentationDataModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(volume, "read_header", lambda path: (read.append(path.name), read_header(path))[1])
    module = data()
    module.setup("fit")
    first = module.dataset.check_headers(SPLIT.train)
    assert len(read) == len(set(read)) == 12 and list(first) == list(SPLIT.train)
    module.dataset.adopt(module.dataset.manifest())  # perhaps other files
    assert module.dataset.check_headers(SPLIT.train) == first and len(read) == 18


def test_without_validation_cases_lightning_validates_nothing(data: Callable[..., SegmentationDataModule]) -> None:
    seen, _ = fit(data(split=Split(("S01", "S02"), (), ("S03",)), steps_per_epoch=2), 4)
    assert len(seen) == 4 and all(a != b for a, b in pairwise(seen))
