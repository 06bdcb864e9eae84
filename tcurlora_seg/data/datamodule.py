"""Loaders for Lightning: a stream of random crops to train on, whole volumes to validate and test on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from tcurlora_seg.data.augmentation import Augmentation
from tcurlora_seg.data.cache import TrainingVolumes, choose_place
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.data.prepared import PreparedCase
from tcurlora_seg.data.sampler import Sample, SampleStream
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import generator


class SegmentationDataModule(LightningDataModule):
    """Training batches {"image" (B, C, *crop) float32, "label" (B, 1, *crop) uint8, "case" (B,)}; validation and
    test items are a `PreparedCase` each.

    What a sample is depends on (seed, lap, case) alone, so neither on workers nor on devices, and which sample is next
    on the steps of the optimiser: a resumed run sees exactly the samples that an uninterrupted one would have seen.
    """

    def __init__(
        self,
        *,
        dataset: SegmentationDataset,
        split: Split,
        crop: list[int],
        batch_size: int,
        steps_per_epoch: int,
        num_workers: int = 0,
        cache: Literal["auto", "memory", "disk", "none"] = "auto",
        cache_dir: str = "outputs/cache",
        seed: int = 0,
        augmentation: Augmentation,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("steps_per_epoch", steps_per_epoch)):
            if value < 1:
                raise UserError(f"{name}={value}: expected at least 1")
        self.dataset, self.case_split, self.crop, self.augmentation = dataset, split, list(crop), augmentation
        self.batch_size, self.steps_per_epoch, self.num_workers = batch_size, steps_per_epoch, num_workers
        self.cache, self.cache_dir, self.seed = cache, cache_dir, seed
        self._volumes: TrainingVolumes | None = None
        self._validation = WholeVolumes(dataset, split.val)

    def setup(self, stage: str) -> None:
        """Check the headers of all cases, and prepare the training volumes.

        Raises:
            UserError: a case that cannot be used, or too little memory.
        """
        train, val, test = self.case_split.sides.values()
        if stage == "fit" and self._volumes is None:
            self.dataset.check_headers((*train, *val, *test))
            copies = self.trainer.num_devices if self.trainer else 1
            place, line = choose_place(self.dataset, (*train, *val), self.cache, self.cache_dir, copies=copies)
            if not self.trainer or self.trainer.is_global_zero:
                print(line, flush=True)
            self._volumes = TrainingVolumes(self.dataset, train, place, self.cache_dir)
            self._validation.keep = place == "memory"

    def train_dataloader(self) -> DataLoader[Any]:
        assert self._volumes is not None, "setup('fit') comes first"
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        step = self.batch_size * world * (trainer.accumulate_grad_batches if trainer else 1)
        stream = SampleStream(
            cases=len(self._volumes),
            length=self.steps_per_epoch * step,
            seed=self.seed,
            position=lambda: trainer.global_step * step if trainer else 0,
            rank=rank,
            world=world,
        )
        ids = self.case_split.train
        crops = RandomCrops(self.dataset, self._volumes, ids, self.augmentation, self.crop, self.seed)
        return DataLoader(
            crops,
            batch_size=self.batch_size,
            sampler=stream,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Whole volumes; an empty list without validation cases, which Lightning takes as no validation."""
        return _loader(self._validation) if self.case_split.val else []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Whole volumes stay in main memory: the predictor takes a slab at a time."""
        whole = isinstance(batch, PreparedCase)
        return batch if whole else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def test_dataloader(self) -> DataLoader[Any]:
        return _loader(WholeVolumes(self.dataset, self.case_split.test))


class RandomCrops(Dataset[dict[str, Any]]):
    """Training samples, indexed by `Sample`."""

    def __init__(
        self,
        dataset: SegmentationDataset,
        volumes: TrainingVolumes,
        ids: Sequence[str],
        augmentation: Augmentation,
        crop: Sequence[int],
        seed: int,
    ) -> None:
        self.dataset, self.volumes, self.ids = dataset, volumes, ids
        self.augmentation, self.crop, self.seed = augmentation, crop, seed

    def __getitem__(self, sample: Sample) -> dict[str, Any]:
        id = self.ids[sample.case]
        g = generator("sample", self.seed, sample.lap, id)
        volume = self.volumes[sample.case]
        image, label = self.dataset.sample(volume, crop=self.crop, augmentation=self.augmentation, g=g)
        return {"image": image, "label": label, "case": id}


class WholeVolumes(Dataset[PreparedCase]):
    """Prepared whole volumes, one a case; kept in memory after the first reading if `keep` is set."""

    def __init__(self, dataset: SegmentationDataset, ids: Sequence[str]) -> None:
        self.dataset, self.ids, self.keep = dataset, ids, False
        self._kept: dict[int, PreparedCase] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> PreparedCase:
        if index in self._kept:
            return self._kept[index]
        item = self.dataset.prepare(self.ids[index])
        if self.keep:
            self._kept[index] = item
        return item


def _loader(volumes: WholeVolumes) -> DataLoader[Any]:
    return DataLoader(volumes, batch_size=1, collate_fn=_only)


def _only(items: list[PreparedCase]) -> PreparedCase:
    return items[0]
