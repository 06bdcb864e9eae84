"""Data module for Lightning: a stream of random crops to train on, whole volumes to validate and test on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset, Subset

from tcurlora_seg.data.augmentation import Augmentation
from tcurlora_seg.data.augmentation.strong import StrongAugmentation
from tcurlora_seg.data.cache import TrainingVolumes, choose_place
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.data.prepared import PreparedCase
from tcurlora_seg.data.sampler import Sample, SampleStream
from tcurlora_seg.randomness import generator, single_threaded


class SegmentationDataModule(LightningDataModule):
    """Data module of a data set and its split.

    Training batches are {"image" (B, C, *crop) float32, "label" (B, 1, *crop) uint8, "case" (B,)}; validation and test
    items are a `PreparedCase` each. The crop may be planned from the `volumes`, before a loader is asked for.

    A sample depends on (seed, lap, case) alone, so neither on workers nor on devices. Which sample is next depends on
    the steps of the optimiser: a resumed run sees exactly the samples of an uninterrupted one.
    """

    def __init__(
        self,
        *,
        dataset: SegmentationDataset,
        split: Split,
        crop: list[int] | None = None,
        batch_size: int | None,
        steps_per_epoch: int,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "disk", "none"] = "auto",
        cache_dir: str = "outputs/cache",
        seed: int = 0,
        augmentation: Augmentation | StrongAugmentation,
    ) -> None:
        super().__init__()
        self.dataset, self.case_split, self.crop = dataset, split, crop
        self.augmentation = replace(augmentation, mirror_axes=dataset.task.mirror_axes(augmentation.mirror_axes))
        self.batch_size, self.steps_per_epoch, self.num_workers = batch_size, steps_per_epoch, num_workers
        self.cache, self.cache_dir, self.seed = cache, cache_dir, seed
        self._volumes: TrainingVolumes | None = None
        self._validation = WholeVolumes(dataset, split.val)

    def setup(self, stage: str) -> None:
        """Check the headers of all cases, and prepare the training volumes.

        Raises:
            UserError: a case that cannot be used, or too little memory.
        """
        if stage == "fit":
            self.volumes(self.trainer.num_devices if self.trainer else 1)

    def volumes(self, copies: int = 1) -> TrainingVolumes:
        """The prepared training volumes; the first call checks the headers of all cases and prepares them.

        Args:
            copies: processes of this machine that train, each of which keeps its own.

        Raises:
            UserError: as `setup`.
        """
        if self._volumes is None:
            train, val, test = self.case_split.sides.values()
            self.dataset.check_headers((*train, *val, *test))
            place, line = choose_place(self.dataset, (*train, *val), self.cache, self.cache_dir, copies=copies)
            rank_zero_only(print)(line, flush=True)
            self._volumes = TrainingVolumes(self.dataset, train, place, self.cache_dir)
            self._validation.keep = place == "memory"
        return self._volumes

    def train_dataloader(self) -> DataLoader[Any]:
        assert self._volumes is not None and self.crop and self.batch_size, "setup('fit') comes first, and a plan"
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
        crops = RandomCrops(self._volumes, self.augmentation, self.crop, self.seed)
        gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        workers = (min(8, os.cpu_count() or 1) if gpu else 0) if self.num_workers is None else self.num_workers
        return DataLoader(
            crops,
            batch_size=self.batch_size,
            sampler=stream,
            num_workers=workers,
            pin_memory=gpu,
            persistent_workers=workers > 0,
        )

    def first_samples(self, number: int) -> Iterator[dict[str, Any]]:
        """The first samples of the stream, whatever step the training is at."""
        assert self._volumes is not None and self.crop, "setup('fit') comes first, and a plan"
        stream = SampleStream(cases=len(self._volumes), length=number, seed=self.seed, position=lambda: 0)
        crops = RandomCrops(self._volumes, self.augmentation, self.crop, self.seed)
        return map(crops.__getitem__, stream)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Whole volumes; an empty list without validation cases, which Lightning takes as no validation.

        Several devices share the cases, and none is left without one, since all have to meet again.
        """
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        cases = range(len(self.case_split.val))
        own = Subset(self._validation, cases[rank::world] or cases[:1])
        return DataLoader(own, batch_size=1, collate_fn=itemgetter(0)) if cases else []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch on the device; whole volumes stay in main memory, since the predictor takes a slab at a time.

        Args:
            batch: of training, or a `PreparedCase`.
            device: of the network.
            dataloader_idx: as Lightning gives it.
        """
        whole = isinstance(batch, PreparedCase)
        return batch if whole else super().transfer_batch_to_device(batch, device, dataloader_idx)


class RandomCrops(Dataset[dict[str, Any]]):
    """Training samples, indexed by `Sample`."""

    def __init__(
        self, volumes: TrainingVolumes, augmentation: Augmentation | StrongAugmentation, crop: Sequence[int], seed: int
    ) -> None:
        self.volumes, self.augmentation, self.crop, self.seed = volumes, augmentation, crop, seed

    def __getitem__(self, sample: Sample) -> dict[str, Any]:
        id, volume = self.volumes.ids[sample.case], self.volumes[sample.case]
        g, dataset = generator("sample", self.seed, sample.lap, id), self.volumes.dataset
        with single_threaded():
            image, label = dataset.sample(volume, crop=self.crop, augmentation=self.augmentation, g=g)
        return {"image": image, "label": label, "case": id}


class WholeVolumes(Dataset[PreparedCase]):
    """Prepared whole volumes, one a case; kept in memory after the first reading if `keep` is set."""

    def __init__(self, dataset: SegmentationDataset, ids: Sequence[str]) -> None:
        self.dataset, self.ids, self.keep = dataset, ids, False
        self._kept: dict[int, PreparedCase] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> PreparedCase:
        item = self._kept.get(index) or self.dataset.prepare(self.ids[index])
        if self.keep:
            self._kept[index] = item
        return item
