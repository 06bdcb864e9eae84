"""What a run is built from, by the device that it will run on; stand-ins take the place of a GPU."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tcurlora_seg.data.augmentation import Augmentation
from tcurlora_seg.data.datamodule import SegmentationDataModule
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.training.build import _processes, training_precision

BF16 = "bf16-mixed"


@pytest.mark.parametrize(("accelerator", "expected"), [("auto", BF16), ("gpu", BF16), ("cpu", "32-true")])
def test_the_precision_is_that_of_the_device_that_trains(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    trainer: dict[str, Any] = {"precision": "auto", "accelerator": accelerator}
    assert training_precision(OmegaConf.create({"trainer": trainer})) == expected
    assert training_precision(OmegaConf.create({"trainer": {**trainer, "precision": "16-mixed"}})) == "16-mixed"


@pytest.fixture
def data() -> Any:
    split = Split(train=("a",), val=("b", "c", "d"), test=())
    task = SimpleNamespace(mirror_pairs=(), mirror_axes=lambda axes: axes)
    dataset: Any = SimpleNamespace(task=task, prepare=lambda case: case)
    return SegmentationDataModule(dataset=dataset, split=split, crop=[32] * 3, batch_size=1, steps_per_epoch=2,
                                  augmentation=Augmentation())  # fmt: skip


def on(device: str, rank: int = 0, world: int = 1) -> Any:
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(global_rank=rank, world_size=world, accumulate_grad_batches=1, strategy=strategy)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_are_made_beside_it_and_come_from_pinned_memory(
    data: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    data.trainer, data._volumes = on(device), ["a volume"]
    loader = data.train_dataloader()
    assert loader.pin_memory == (device == "cuda")
    assert loader.num_workers == (6 if device == "cuda" else 0)
    data.num_workers = 1
    assert data.train_dataloader().num_workers == 1


@pytest.mark.parametrize(
    ("devices", "expected"), [(2, 2), ("2", 2), ([0, 2, 3], 3), (-1, 4), ("-1", 4), ("auto", 4)]
)
def test_devices_are_counted_however_lightning_takes_them(
    monkeypatch: pytest.MonkeyPatch, devices: Any, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert _processes(OmegaConf.create({"devices": devices}).devices) == expected


@pytest.mark.parametrize(("world", "shares"), [(1, ["bcd"]), (2, ["bd", "c"]), (4, ["b", "c", "d", "b"])])
def test_several_devices_share_the_validation_cases_and_none_goes_without(
    data: Any, world: int, shares: list[str]
) -> None:
    for rank, share in enumerate(shares):
        data.trainer = on("cpu", rank, world)
        assert "".join(data.val_dataloader()) == share
