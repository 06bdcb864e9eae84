from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tcurlora_seg.data import cache
from tcurlora_seg.data.cache import TrainingVolumes, available_memory, check_memory
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.errors import UserError

IDS = ["S01", "S02"]


def same(a: dict, b: dict) -> bool:
    spots = all(torch.equal(x, y) for x, y in zip(a["spots"], b["spots"], strict=True))
    return torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"]) and spots


def test_memory_disk_and_none_give_the_same_volumes(lpba40: Callable[..., LPBA40], tmp_path: Path) -> None:
    memory, disk, none = (TrainingVolumes(lpba40(), IDS, mode, tmp_path) for mode in ("memory", "disk", "none"))
    for i in range(2):
        assert same(memory[i], disk[i]) and same(memory[i], none[i])
        assert type(memory[i]["image"]) is torch.Tensor and memory[i]["label"].dtype == torch.uint8
    assert len(memory) == len(disk) == len(none) == 2


def test_spots_are_the_voxels_of_every_class(lpba40: Callable[..., LPBA40], tmp_path: Path) -> None:
    volume = TrainingVolumes(lpba40(task="hippocampus_lr"), IDS, "none", tmp_path)[0]
    flat = volume["label"].flatten()
    assert [set(flat[spots.long()].tolist()) for spots in volume["spots"]] == [{1}, {2}]
    assert sum(len(spots) for spots in volume["spots"]) == int((flat > 0).sum())


def test_what_is_on_disk_is_used_again_until_something_changes(
    lpba40: Callable[..., LPBA40], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    prepare = LPBA40.prepare
    monkeypatch.setattr(LPBA40, "prepare", lambda self, id: (prepared.append(id), prepare(self, id))[1])
    for _ in range(2):
        TrainingVolumes(lpba40(), IDS, "disk", tmp_path)
    assert sorted(prepared) == IDS
    TrainingVolumes(lpba40(task="hippocampus_lr"), IDS, "disk", tmp_path)
    TrainingVolumes(lpba40(preparation=Preparation(crop_to_brain=False)), IDS, "disk", tmp_path)
    assert sorted(prepared) == sorted(3 * IDS)
    assert len(list(tmp_path.iterdir())) == 6


def test_an_unknown_label_is_found_before_training(
    lpba40: Callable[..., LPBA40], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LPBA40, "known_labels", frozenset({0, 165}))
    for mode in ("memory", "disk"):
        with pytest.raises(UserError, match=r"structure.label.hdr: label values"):
            TrainingVolumes(lpba40(), IDS, mode, tmp_path)


def test_memory_is_announced_and_refused_where_it_is_too_little(
    lpba40: Callable[..., LPBA40], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    voxels = 45 * 54 * 45
    with caplog.at_level(logging.INFO):
        check_memory(lpba40(), IDS)
    assert "2 prepared volumes in memory: at most 0.00 GB" in caplog.text
    monkeypatch.setattr(cache, "available_memory", lambda: 2 * 5 * voxels)
    with pytest.raises(UserError, match=r"data.cache=disk"):
        check_memory(lpba40(), IDS)
    monkeypatch.setattr(cache, "available_memory", lambda: 2 * 5 * voxels * 10 // 8 + 1)
    check_memory(lpba40(), IDS)
    with pytest.raises(UserError):  # at 2 mm instead of 4 a volume takes eight times as much
        check_memory(lpba40(preparation=Preparation(spacing=[2.0, 2.0, 2.0])), IDS)


def test_free_memory_is_a_plausible_number() -> None:
    free = available_memory()
    assert free is None or 2**24 < free < 2**50
