from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tcurlora_seg.data import cache
from tcurlora_seg.data.cache import TrainingVolumes, choose_place
from tcurlora_seg.data.datasets.eadc_adni import EADCADNI
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.errors import UserError
from tcurlora_seg.memory import available_memory

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


def test_a_cache_that_cannot_be_written_says_how_much_is_needed(
    lpba40: Callable[..., LPBA40], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 470")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*S01.*: the disk is full, .* a case takes .* MB: set data\.c"):
        TrainingVolumes(lpba40(), IDS, "disk", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_target_that_preparation_makes_vanish_everywhere_is_refused(
    lpba40: Callable[..., LPBA40], tmp_path: Path
) -> None:
    coarse = lpba40(preparation=Preparation(spacing=[60.0, 60.0, 60.0]))
    with pytest.raises(UserError, match=r"no training case has a voxel of dataset.task=hippocampus after preparation"):
        TrainingVolumes(coarse, IDS, "memory", tmp_path)


def test_spots_are_the_voxels_of_every_class(lpba40: Callable[..., LPBA40], tmp_path: Path) -> None:
    volume = TrainingVolumes(lpba40(task="hippocampus_lr"), IDS, "none", tmp_path)[0]
    flat = volume["label"].flatten()
    assert [set(flat[spots.long()].tolist()) for spots in volume["spots"]] == [{1}, {2}]
    assert sum(len(spots) for spots in volume["spots"]) == int((flat > 0).sum())


def test_typical_values_do_not_depend_on_the_place_and_cost_one_preparation_a_case(
    lpba40: Callable[..., LPBA40], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = TrainingVolumes(lpba40(), IDS, "memory", tmp_path).typical()
    prepared: list[str] = []
    prepare = LPBA40.prepare
    monkeypatch.setattr(LPBA40, "prepare", lambda self, id: (prepared.append(id), prepare(self, id))[1])
    assert TrainingVolumes(lpba40(), IDS, "none", tmp_path).typical() == kept and prepared == IDS


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


def test_volumes_that_are_read_another_way_have_another_name(
    lpba40: Callable[..., LPBA40], eadc_adni_root: Path, tmp_path: Path
) -> None:
    def eadc_adni(**changes: object) -> EADCADNI:
        return EADCADNI(root=str(eadc_adni_root), preparation=Preparation(), **changes)

    for make, change in ((lpba40, {"analyze_axes": "RAS"}), (eadc_adni, {"label_grid": "image"})):
        id = make().manifest().cases[0].id
        first, again, other = (cache.stored_path(make(**c), id, tmp_path) for c in ({}, {}, change))
        assert first == again != other


def test_an_unknown_label_is_found_before_training(
    lpba40: Callable[..., LPBA40], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LPBA40, "known_labels", frozenset({0, 165}))
    for mode in ("memory", "disk"):
        with pytest.raises(UserError, match=r"structure.label.hdr: label values"):
            TrainingVolumes(lpba40(), IDS, mode, tmp_path)


VOXELS = 45 * 54 * 45
NEEDED = 2 * 5 * VOXELS  # two volumes, one channel of float32 and a label of one byte


def test_memory_is_announced_and_refused_where_it_is_too_little(
    lpba40: Callable[..., LPBA40], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: NEEDED * 10 // 8 + 1)
    for mode in ("memory", "auto"):
        place, line = choose_place(lpba40(), IDS, mode, tmp_path)
        assert place == "memory" and line == "keeping 2 prepared volumes: up to 1 MB of memory (1 MB are free)"
    for changes in ({"copies": 2}, {"ids": [*IDS, "S03"]}):
        with pytest.raises(UserError, match=r"keeping . prepared volumes takes up to .*use data.cache=auto, disk"):
            choose_place(lpba40(), **{"ids": IDS, "mode": "memory", "folder": tmp_path, **changes})
    with pytest.raises(UserError):  # at 2 mm instead of 4 a volume takes eight times as much
        choose_place(lpba40(preparation=Preparation(spacing=[2.0, 2.0, 2.0])), IDS, "memory", tmp_path)


def test_what_does_not_fit_into_memory_goes_to_disk_and_what_does_not_fit_there_is_refused(
    lpba40: Callable[..., LPBA40], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: NEEDED)
    folder = tmp_path / "not" / "yet"
    place, line = choose_place(lpba40(), IDS, "auto", folder)
    assert place == "disk" and f"{folder}, up to 1 MB of disk: in memory they would take" in line
    assert choose_place(lpba40(), IDS, "none", folder)[0] == "none"
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=NEEDED - 1))
    for mode in ("auto", "disk"):
        with pytest.raises(UserError, match=r"1 MB left.*data.cache_dir.*data.cache=none"):
            choose_place(lpba40(), IDS, mode, folder)
    TrainingVolumes(lpba40(), IDS[:1], "disk", folder)  # what is stored already needs no more room
    assert choose_place(lpba40(), IDS, "disk", folder)[0] == "disk"


def test_forty_heads_of_a_millimetre_take_a_gigabyte_and_a_half(
    lpba40: Callable[..., LPBA40], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"S{n:02d}" for n in range(40)]
    header = ((182, 218, 182), (1.0, 1.0, 1.0))
    monkeypatch.setattr(LPBA40, "check_headers", lambda self, ids: dict.fromkeys(ids, header))
    monkeypatch.setattr(cache, "available_memory", lambda: 2_000_000_000)
    _, line = choose_place(lpba40(), ids, "auto", "unused")
    assert line == "keeping 40 prepared volumes: up to 1.4 GB of memory (2.0 GB are free)"


def test_new_voxels_under_an_old_analyze_header_are_prepared_anew(
    lpba40: Callable[..., LPBA40], lpba40_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(lpba40_root, tmp_path / "root"))
    before = cache.stored_path(lpba40(root=str(root)), "S01", tmp_path)
    os.utime(root / "LPBA40/delineation_space/S01/S01.delineation.skullstripped.img.gz", (1, 1))
    assert cache.stored_path(lpba40(root=str(root)), "S01", tmp_path) != before


def test_free_memory_is_a_plausible_number() -> None:
    free = available_memory()
    assert free is None or 2**24 < free < 2**50
