from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tcurlora_seg.data.datasets.brats2021 import BraTS2021
from tcurlora_seg.data.datasets.folder import Folder
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.examine import Examination, duplicates, examine, examine_all, same_labels
from tcurlora_seg.data.preparation import Preparation

SHAPE, MM = (28, 34, 28), 5.0  # a head of 140 x 170 x 140 mm
IMAGE, LABEL = "S01.delineation.skullstripped.nii.gz", "label/S01.delineation.structure.label.nii.gz"


@pytest.fixture
def change(tmp_path: Path) -> Callable[..., Examination]:
    """A function that examines a sound NIfTI copy of LPBA40 after changing (image, label, affine)."""

    def run(edit: Callable[..., None] | None = None) -> Examination:
        image = np.random.default_rng(0).uniform(50, 100, SHAPE).astype(np.float32)
        label = np.zeros(SHAPE, np.uint8)
        label[4:6, 10, 10], label[14:16, 10, 10] = 165, 166
        affine = np.diag([MM, MM, MM, 1.0])
        if edit:
            edit(image, label, affine)
        (tmp_path / "label").mkdir()
        nib.save(nib.Nifti1Image(image, affine), tmp_path / IMAGE)
        nib.save(nib.Nifti1Image(label, affine), tmp_path / LABEL)
        return examine(LPBA40(root=str(tmp_path), preparation=Preparation()), "S01")

    return run


def test_a_sound_case_is_measured(change: Callable[..., Examination]) -> None:
    found = change()
    assert found.problem is None
    assert found.shape == SHAPE and found.spacing == [MM, MM, MM]
    assert found.target_ml == pytest.approx(4 * MM**3 / 1000) and not found.notes
    assert list(found.images) == [IMAGE]


def _nan(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    image[3, 3, 3] = np.nan


def _infinite(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    image[3, 3, 3] = np.inf


def _blank(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    image[:] = 0


def _empty(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    label[:] = 21


def _strange(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    label[0, 0, 0] = 99


def _mirrored(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    label[:] = label[::-1].copy()


def _metres(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    affine[:3, :3] /= 1000


def _too_small(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    affine[:3, :3] /= 2


def _too_long(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    affine[1, 1] *= 1.6


def _sheared(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    affine[0, 1] = 0.5


@pytest.mark.parametrize(
    ("edit", "file", "words"),
    [
        (_nan, IMAGE, "NaN or infinite"),
        (_infinite, IMAGE, "NaN or infinite"),
        (_blank, IMAGE, "no two different intensities"),
        (_empty, LABEL, "the target is empty, no voxel has a label of dataset.task=hippocampus"),
        (_strange, LABEL, "label values 99 are not of lpba40"),
        (_mirrored, LABEL, "reversed left-right"),
        (_metres, LABEL, "voxels of 0.005 x 0.005 x 0.005 mm; expected 0.01 to 20.0"),
        (_too_small, IMAGE, "70 mm long left-right; a head has 80 to 260"),
        (_too_long, IMAGE, "272 mm long back-front"),
        (_sheared, LABEL, "not at right angles"),
    ],
)
def test_every_defect_is_told_with_its_file_relative_to_the_root(
    change: Callable[..., Examination], edit: Callable[..., None], file: str, words: str
) -> None:
    problem = change(edit).problem
    assert problem and problem.startswith(file) and words in problem


def _signed(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    image -= 75


@pytest.mark.parametrize(
    ("edit", "words"),
    [(_signed, f"{IMAGE}: 50% of its voxels are below 0; no voxel is taken for the background")],
)
def test_what_is_worth_a_word_is_noted(
    change: Callable[..., Examination], edit: Callable[..., None], words: str
) -> None:
    found = change(edit)
    assert found.problem is None and found.notes == [words]


def test_a_structure_that_preparation_makes_vanish_is_named(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    image = np.random.default_rng(0).uniform(50, 100, (24, 24, 24)).astype(np.float32)
    label = np.zeros((24, 24, 24), np.uint8)
    label[4:12, 4:12, 4:12], label[17, 17, 16:18] = 1, 2
    write_nifti(tmp_path / "images/a.nii", image)
    write_nifti(tmp_path / "labels/a.nii", label)
    preparation = Preparation(spacing=[4.0, 4.0, 4.0])
    dataset = Folder(root=str(tmp_path), classes={"large": 1, "small": 2}, preparation=preparation)
    (line,) = examine(dataset, "a").notes
    assert line.startswith("labels/a.nii: preparation leaves nothing of 2 mm³ of small: a finer dataset.preparation")
    only = Folder(root=str(tmp_path), classes={"small": 2}, background=[0, 1], preparation=preparation)
    problem = examine(only, "a").problem
    assert problem and problem.startswith("labels/a.nii: preparation leaves nothing of 2 mm³ of small")


@pytest.mark.parametrize(("axes", "noted"), [("RAS", False), ("LAS", True)])
def test_sides_that_lie_on_the_other_one_are_noted(
    axes: str, noted: bool, tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    label = np.zeros((12, 6, 6), np.uint8)
    label[2:4, 2:4, 2:4], label[8:10, 2:4, 2:4] = 5, 6
    image = np.random.default_rng(0).normal(9, 1, label.shape).astype(np.float32)
    write_nifti(tmp_path / "images" / "a.nii", image, axes)
    write_nifti(tmp_path / "labels" / "a.nii", label, axes)
    classes = {"hippocampus_left": [5], "hippocampus_right": [6]}
    found = examine(Folder(root=str(tmp_path), classes=classes, preparation=Preparation(crop_to_brain=False)), "a")
    words = ["labels/a.nii: hippocampus_left lies to the right of hippocampus_right: are they exchanged, or is the "
             "header wrong?"]  # fmt: skip
    assert found.notes == (words if noted else [])


def test_an_image_of_which_scaling_leaves_nothing_is_named(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    image = np.random.default_rng(0).uniform(50, 100, (24, 24, 24)).astype(np.float32)
    label = np.zeros((24, 24, 24), np.uint8)
    label[4:6, 10, 10], label[14:16, 10, 10] = 165, 166
    write_nifti(tmp_path / IMAGE, image)
    write_nifti(tmp_path / LABEL, label)
    window = Preparation(intensity="window", limits=[1000.0, 2000.0])
    problem = examine(LPBA40(root=str(tmp_path), preparation=window), "S01").problem
    assert problem == f"{IMAGE}: scaling leaves nothing of it above 0; see dataset.preparation.limits"


def test_a_small_turn_of_the_head_is_no_defect(change: Callable[..., Examination]) -> None:
    def tilted(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
        c, s = np.cos(0.2), np.sin(0.2)
        affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]

    assert change(tilted).problem is None


def test_modalities_that_are_not_trained_on_are_examined_too(
    brats2021: Callable[..., BraTS2021], brats2021_root: Path, tmp_path: Path
) -> None:
    id = brats2021().manifest().cases[0].id
    for path in (brats2021_root / id).iterdir():
        (tmp_path / id).mkdir(exist_ok=True)
        (tmp_path / id / path.name).write_bytes(path.read_bytes())
    dataset = brats2021(root=str(tmp_path), modalities=["t1ce"])
    assert examine(dataset, id).problem is None and len(examine(dataset, id).images) == 4
    (tmp_path / id / f"{id}_t2.nii.gz").write_bytes((tmp_path / id / f"{id}_t1.nii.gz").read_bytes())
    problem = examine(dataset, id).problem
    assert problem and f"{id}/{id}_t1.nii.gz and {id}/{id}_t2.nii.gz hold the same voxels" in problem
    whole = nib.load(tmp_path / id / f"{id}_t2.nii.gz")
    broken = np.asarray(whole.dataobj, dtype=np.float32)
    broken[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(broken, whole.affine), tmp_path / id / f"{id}_t2.nii.gz")
    problem = examine(dataset, id).problem
    assert problem and problem.startswith(f"{id}/{id}_t2.nii.gz holds NaN")
    assert dataset.modalities == ("t1ce",)


def test_whatever_a_strange_file_raises_is_its_problem(
    change: Callable[..., Examination], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LPBA40, "check_label", lambda self, raw, affine, source: 1 // 0)
    problem = change().problem
    assert problem and IMAGE in problem and "ZeroDivisionError" in problem


def sound(image: str, label: str) -> Examination:
    return Examination(images={f"{image}.nii": image}, label=label)


def test_of_copies_the_first_stays_unless_their_labels_differ() -> None:
    cases = {"a": sound("1", "x"), "b": sound("2", "x"), "c": sound("1", "x"), "d": sound("1", "x")}
    reasons = duplicates(cases)
    assert set(reasons) == {"c", "d"} and "1.nii holds the same voxels as 1.nii" in reasons["c"]
    reasons = duplicates({**cases, "e": sound("1", "y")})
    assert set(reasons) == {"a", "c", "d", "e"} and all("another label" in why for why in reasons.values())
    flair = {"a": replace(sound("1", "x"), images={"t1": "1", "flair": "9"}), "b": sound("9", "x")}
    assert set(duplicates(flair)) == {"b"}


def test_one_label_under_the_names_of_two_patients_is_noted() -> None:
    cases = {"a": sound("1", "x"), "b": sound("2", "y"), "c": sound("3", "x"), "d": sound("4", "x")}
    notes = same_labels(cases, {"a": "Ann", "b": "Bob", "c": "Ann", "d": "Dan"})
    assert set(notes) == {"d"} and notes["d"].startswith("its label is that of a to the voxel")


def test_many_threads_find_what_one_finds(lpba40: Callable[..., LPBA40]) -> None:
    ids = ["S01", "S02", "S03"]
    assert dict(examine_all(lpba40(), ids, workers=3)) == dict(examine_all(lpba40(), ids, workers=1))
