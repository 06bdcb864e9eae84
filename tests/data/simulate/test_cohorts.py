from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tcurlora_seg.data.datasets.brats2021 import BraTS2021
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.manifest import SIMULATED, read_manifest
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError

COHORTS = {"lpba40": LPBA40, "brats2021": BraTS2021}


def hashes(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def roots(lpba40_root: Path, brats2021_root: Path) -> dict[str, Path]:
    return {"lpba40": lpba40_root, "brats2021": brats2021_root}


@pytest.mark.parametrize("name", COHORTS)
def test_a_subject_is_a_pure_function_of_seed_and_number(
    name: str, tmp_path: Path, lpba40_root: Path, brats2021_root: Path
) -> None:
    large = hashes(roots(lpba40_root, brats2021_root)[name])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    simulate(name, tmp_path / "small", subjects=2, seed=0, spacing=4.0)  # a smaller cohort, another number of threads
    torch.set_num_threads(threads)
    small = hashes(tmp_path / "small")
    assert small.items() <= large.items() and len(small) >= 9
    simulate(name, tmp_path / "other", subjects=2, seed=1, spacing=4.0)
    other = hashes(tmp_path / "other")
    images = [file for file in small if "img.gz" in file or ".nii" in file]
    assert all(other[file] != small[file] for file in images)
    assert len({small[file] for file in images}) == len(images)  # subjects and modalities differ, too


@pytest.mark.parametrize("name", COHORTS)
def test_a_cohort_says_that_it_is_simulated(name: str, lpba40_root: Path, brats2021_root: Path) -> None:
    root = roots(lpba40_root, brats2021_root)[name]
    manifest = read_manifest(root / "manifest.json", root)
    assert manifest.dataset == name and manifest.simulated is not None
    assert manifest.simulated["seed"] == 0 and manifest.simulated["spacing_mm"] == 4.0
    assert "simulated" in (root / SIMULATED).read_text()


@pytest.mark.parametrize("name", COHORTS)
def test_every_subject_has_a_plausible_brain_and_target(name: str, lpba40_root: Path, brats2021_root: Path) -> None:
    dataset = COHORTS[name](root=str(roots(lpba40_root, brats2021_root)[name]), preparation=Preparation())
    for case in dataset.manifest().cases:
        raw, _ = read_volume(dataset.root / case.label)
        assert set(np.unique(raw)) <= dataset.known_labels
        brain = None
        for path in case.images.values():
            image, _ = read_volume(dataset.root / path)
            assert image.dtype == np.int16 and image.min() == 0
            assert brain is None or np.array_equal(image > 0, brain)  # the modalities share one anatomy
            brain = image > 0
            assert 1100 < brain.sum() * 0.064 < 2300  # ml
            assert not any(face.any() for face in (brain[0], brain[-1], brain[:, 0], brain[:, -1]))
            assert brain[:, :, [0, -1]].sum() < 0.02 * brain.sum()  # BraTS' 155 mm cut off little of a tall head
        assert not raw[~brain].any()
        if name == "lpba40":
            for side in (165, 166):
                assert 2.5 < (raw == side).sum() * 0.064 < 7.5
        else:
            assert 4.5 < (raw > 0).sum() * 0.064 < 125
            assert set(np.unique(raw)) >= {0, 1, 2}


def test_a_folder_that_holds_anything_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"is not empty and holds no simulated cohort"):
        simulate("lpba40", tmp_path, subjects=1, spacing=4.0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match=r"is a file"):
        simulate("lpba40", tmp_path / "thesis.txt", subjects=1, spacing=4.0)


def test_a_marked_folder_is_written_anew_without_what_is_no_longer_asked_for(tmp_path: Path) -> None:
    simulate("lpba40", tmp_path, subjects=2, seed=0, spacing=8.0)
    before = hashes(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert (
        simulate("lpba40", tmp_path, subjects=1, seed=0, spacing=8.0).cases
        == read_manifest(tmp_path / "manifest.json", tmp_path).cases
    )
    after = hashes(tmp_path)
    assert after.pop("notes.txt") and after == {k: v for k, v in before.items() if "S02" not in k}
    assert not (tmp_path / "LPBA40/delineation_space/S02").exists()
    with pytest.raises(UserError, match=r"another data set's simulated cohort"):
        simulate("brats2021", tmp_path, subjects=1, spacing=8.0)
    assert hashes(tmp_path).keys() == {*after, "notes.txt"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "ixi"}, "no simulated cohort stands in for 'ixi'"),
        ({"subjects": 0}, "simulate=0"),
        ({"spacing": 0.1}, "0.1 mm is out of range"),
    ],
)
def test_what_cannot_be_simulated_is_one_line(tmp_path: Path, changes: dict, words: str) -> None:
    arguments = {"dataset": "lpba40", "root": tmp_path / "x", "subjects": 1, **changes}
    with pytest.raises(UserError, match=words):
        simulate(arguments.pop("dataset"), arguments.pop("root"), **arguments)
    assert not (tmp_path / "x").exists()


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    simulate("lpba40", tmp_path / "x", subjects=3, spacing=8.0, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
