from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import SIMULATED, read_manifest
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError


def hashes(root: Path) -> dict[str, str]:
    """Of all files but the two that list the others."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in ("manifest.json", SIMULATED)]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_subject_is_a_pure_function_of_seed_and_number(cohort: SegmentationDataset, tmp_path: Path) -> None:
    large = hashes(cohort.root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a smaller cohort, another number of threads
    simulate(cohort.name, tmp_path / "small", subjects=2, seed=0, spacing=4.0)
    torch.set_num_threads(threads)
    small = hashes(tmp_path / "small")
    assert small.items() <= large.items() and len(small) >= 8
    simulate(cohort.name, tmp_path / "other", subjects=2, seed=1, spacing=4.0)
    other = hashes(tmp_path / "other")
    images = [file for file in small if "img.gz" in file or ".nii" in file]
    assert all(other[file] != small[file] for file in images)
    assert len({small[file] for file in images}) == len(images)  # subjects and modalities differ, too


def test_no_two_cohorts_show_the_same_heads(brats2021_root: Path, upenn_gbm_root: Path) -> None:
    brats, _ = read_volume(brats2021_root / "BraTS2021_00001/BraTS2021_00001_t2.nii.gz")
    structural = "NIfTI-files/images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_T2.nii.gz"
    upenn, _ = read_volume(upenn_gbm_root / structural)
    brains = brats > 0, upenn > 0
    assert 2 * (brains[0] & brains[1]).sum() / (brains[0].sum() + brains[1].sum()) < 0.97


def test_a_cohort_says_that_it_is_simulated(cohort: SegmentationDataset) -> None:
    manifest = read_manifest(cohort.root / "manifest.json", cohort.root)
    assert manifest.dataset == cohort.name and manifest.simulated is not None
    assert manifest.simulated["seed"] == 0 and manifest.simulated["spacing_mm"] == 4.0
    text = (cohort.root / SIMULATED).read_text()
    assert "simulated" in text and set(hashes(cohort.root)) == set(text.partition("Files:\n")[2].splitlines())


def test_the_reader_finds_the_same_cases_without_the_manifest(cohort: SegmentationDataset) -> None:
    found = cohort.find_cases()
    assert found.cases == cohort.manifest().cases and not found.left_out and not found.skipped
    headers = cohort.check_headers(case.id for case in found.cases)
    assert {spacing for _, spacing in headers.values()} == {(4.0, 4.0, 4.0)}


def test_every_subject_has_a_plausible_brain_and_target(cohort: SegmentationDataset) -> None:
    for case in cohort.manifest().cases:
        raw, affine = cohort.read_label(case)
        cohort.check_label(raw, affine, case.id)
        images = [read_volume(cohort.root / path)[0] for path in case.images.values()]
        assert all(image.dtype == np.int16 and image.min() == 0 for image in images)
        brain = read_volume(cohort.root / case.mask)[0] > 0 if case.mask else images[0] > 0
        assert case.mask or all(np.array_equal(image > 0, brain) for image in images)  # one anatomy
        assert 1100 < brain.sum() * 0.064 < 2300  # ml
        assert not any(face.any() for face in (brain[0], brain[-1], brain[:, 0], brain[:, -1]))
        assert brain[:, :, [0, -1]].sum() < 0.02 * brain.sum()  # BraTS' 155 mm cut off little of a tall head
        assert not raw[~brain].any()
        if cohort.name in ("brats2021", "upenn_gbm"):
            assert 4.5 < (raw > 0).sum() * 0.064 < 125
            assert set(np.unique(raw)) >= {0, 1, 2}
        else:
            low, high, sides = (2.5, 7.5, (165, 166)) if cohort.name == "lpba40" else (2.9, 5.1, (1, 2))
            assert all(low < (raw == side).sum() * 0.064 < high for side in sides)


def test_a_raw_image_shows_the_skull_around_the_very_brain_that_its_mask_shows(eadc_adni_root: Path) -> None:
    manifest = read_manifest(eadc_adni_root / "manifest.json", eadc_adni_root)
    for case in manifest.cases:
        image, affine = read_volume(eadc_adni_root / case.images["t1"])
        brain = read_volume(eadc_adni_root / case.mask)[0] > 0
        assert image.shape == (49, 58, 47) and np.array_equal(np.diag(affine)[:3], (4.0, 4.0, 4.0))
        white = np.median(image[brain])
        outside = image[~brain]
        assert 0.04 < (outside > 1.3 * white).sum() / brain.sum() < 0.6  # fat
        assert (image > 0).sum() > 2.5 * brain.sum()
        rim = ndimage.binary_dilation(brain) & ~brain
        inner = brain & ~ndimage.binary_erosion(brain)
        assert 0.5 < image[rim].mean() / image[inner].mean() < 1.3  # nothing is cut out at the brain's surface


def test_automatic_labels_are_close_to_the_experts_but_not_the_same(upenn_gbm_root: Path) -> None:
    scores = []
    for expert in sorted((upenn_gbm_root / "NIfTI-files/images_segm").iterdir()):
        name = expert.name.replace("_segm", "_automated_approx_segm")
        labels = [read_volume(path)[0] for path in (expert, upenn_gbm_root / "NIfTI-files/automated_segm" / name)]
        a, b = (label > 0 for label in labels)
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert not np.array_equal(*labels)
    assert len(scores) == 5 and np.median(scores) > 0.8 and min(scores) > 0.5


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
    before_notes = after.pop("notes.txt")
    assert after == {k: v for k, v in before.items() if "S02" not in k}
    assert not (tmp_path / "LPBA40/delineation_space/S02").exists()
    (tmp_path / "manifest.json").unlink()  # what is to go is known without it
    simulate("lpba40", tmp_path, subjects=2, seed=0, spacing=8.0)
    simulate("lpba40", tmp_path, subjects=1, seed=0, spacing=8.0)
    assert hashes(tmp_path) == {**after, "notes.txt": before_notes}
    with pytest.raises(UserError, match=r"another data set's simulated cohort"):
        simulate("brats2021", tmp_path, subjects=1, spacing=8.0)
    assert hashes(tmp_path).keys() == {*after, "notes.txt"}


@pytest.mark.parametrize("outside", ["../precious.txt", "{}/precious.txt"])
def test_a_marker_never_removes_what_lies_outside_its_folder(tmp_path: Path, outside: str) -> None:
    (tmp_path / "precious.txt").write_text("thesis")
    root = tmp_path / "cohort"
    root.mkdir()
    hostile = f"dataset: lpba40\n\nFiles:\n{outside.format(tmp_path)}\n"
    for text, words in ((hostile, "which is not under"), ("", "another data set's")):
        (root / SIMULATED).write_text(text)
        with pytest.raises(UserError, match=words):
            simulate("lpba40", root, subjects=1, spacing=8.0)
    assert (tmp_path / "precious.txt").exists()


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
