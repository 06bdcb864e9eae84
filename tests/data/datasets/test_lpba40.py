from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.simulate.folder import write_analyze
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError

SIZE = (12, 14, 10)
WHOLE = Preparation(crop_to_brain=False)


def pair(axes: str = "LAS") -> tuple[np.ndarray, np.ndarray]:
    """An image whose every voxel is unique and a label with a structure at each end of each world axis."""
    image = 1 + np.arange(np.prod(SIZE), dtype=np.int16).reshape(SIZE)
    label = np.zeros(SIZE, dtype=np.uint8)
    inverse = np.linalg.inv(centred_affine(SIZE, (1, 1, 1), axes))
    for value, world in {
        165: (-3, 0, 0),
        166: (3, 0, 0),
        63: (0, -3, 0),
        23: (0, 3, 0),
        85: (0, 0, -3),
        43: (0, 0, 3),
    }.items():
        label[tuple(np.round(inverse[:3] @ [*world, 1]).astype(int))] = value
    return image, label


def write_archive(
    root: Path, below: str = "LPBA40/delineation_space", axes: str = "LAS", ids: tuple = ("S01", "S02")
) -> None:
    image, label = pair(axes)
    for id in ids:
        for what, array in (("skullstripped", image), ("structure.label", label)):
            write_analyze(root / below / id / f"{id}.delineation.{what}.hdr", array, 1.0)


def write_copies(root: Path, write_nifti: Callable[..., Path], axes: str = "LAS", suffix: str = ".nii.gz") -> None:
    image, label = pair(axes)
    for id in ("S01", "S02"):
        write_nifti(root / f"{id}.delineation.skullstripped{suffix}", image, axes)
        write_nifti(root / "label" / f"{id}.delineation.structure.label{suffix}", label, axes)


def dataset(root: Path, **changes: object) -> LPBA40:
    return LPBA40(**{"root": str(root), "preparation": WHOLE, "task": "structures", **changes})


def check_case(found: LPBA40, axes: str) -> None:
    """Every voxel of the prepared case against a reading by the definition: world position by world position."""
    image, label = pair(axes)
    item = found.prepare("S02")
    affine = centred_affine(SIZE, (1, 1, 1), axes)
    np.testing.assert_allclose(item.affine, affine)
    classes = {0: 0, **{value: index for index, (value,) in found.task.classes.items()}}
    expected = np.vectorize(classes.get)(label)
    np.testing.assert_array_equal(item.native_label, expected)
    to_native = np.linalg.inv(affine) @ item.image.affine.numpy()
    mean, std = image.mean(dtype=float), image.std(dtype=float)
    for index in np.ndindex(*item.image.shape[1:]):
        native = tuple(np.round(to_native[:3] @ [*index, 1]).astype(int))
        assert abs(float(item.image.as_tensor()[0][index]) - (image[native] - mean) / std) < 1e-5
        assert int(item.label.as_tensor()[0][index]) == expected[native]


@pytest.mark.parametrize("below", ["LPBA40/delineation_space", "delineation_space", "LPBA40", "."])
def test_the_archive_reads_voxel_by_voxel_at_any_usual_depth(tmp_path: Path, below: str) -> None:
    write_archive(tmp_path, below)
    found = dataset(tmp_path)
    assert [case.id for case in found.manifest().cases] == ["S01", "S02"]
    check_case(found, "LAS")


def test_archives_with_other_axes_read_once_told_so(tmp_path: Path) -> None:
    write_archive(tmp_path, axes="LPS")
    with pytest.raises(UserError, match=r"reversed back-front.*dataset.analyze_axes=LPS"):
        dataset(tmp_path).prepare("S01")
    check_case(dataset(tmp_path, analyze_axes="LPS"), "LPS")


@pytest.mark.parametrize(("axes", "suffix"), [("LAS", ".nii.gz"), ("RAS", ".nii.gz"), ("RSP", ".nii")])
def test_nifti_copies_read_voxel_by_voxel(
    tmp_path: Path, write_nifti: Callable[..., Path], axes: str, suffix: str
) -> None:
    write_copies(tmp_path, write_nifti, axes, suffix)
    check_case(dataset(tmp_path), axes)


def test_the_left_hippocampus_is_on_the_left_after_preparation(lpba40: Callable[..., LPBA40]) -> None:
    item = lpba40(task="hippocampus_lr").prepare("S01")
    label = item.label.as_tensor()[0]
    left, right = (np.argwhere(label.numpy() == index).mean(axis=0) for index in (1, 2))
    assert left[0] < right[0]  # the first axis runs to the right
    world = item.label.affine.numpy()
    assert (world[:3, :3] @ left + world[:3, 3])[0] < 0 < (world[:3, :3] @ right + world[:3, 3])[0]


def test_a_mirrored_label_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path)
    _image, label = pair()
    write_analyze(tmp_path / "LPBA40/delineation_space/S01/S01.delineation.structure.label.hdr", label[::-1], 1.0)
    with pytest.raises(UserError, match=r"reversed left-right"):
        dataset(tmp_path).prepare("S01")


@pytest.mark.parametrize("highest", [54, 56])
def test_renumbered_labels_are_refused_with_the_reason(
    tmp_path: Path, highest: int, write_nifti: Callable[..., Path]
) -> None:
    write_copies(tmp_path, write_nifti)
    label = np.arange(np.prod(SIZE), dtype=np.uint8).reshape(SIZE) % (highest + 1)
    write_nifti(tmp_path / "label" / "S01.delineation.structure.label.nii.gz", label, "LAS")
    with pytest.raises(UserError, match=r"S01.delineation.structure.label.nii.gz: .*renumbered to 1..54"):
        dataset(tmp_path).prepare("S01")


def test_unknown_values_are_named(tmp_path: Path) -> None:
    write_archive(tmp_path)
    _, label = pair()
    label[0, 0, :2] = (99, 200)
    write_analyze(tmp_path / "LPBA40/delineation_space/S01/S01.delineation.structure.label.hdr", label, 1.0)
    with pytest.raises(UserError, match=r"values 99, 200 are not of lpba40; it has 21 to 182"):
        dataset(tmp_path).prepare("S01")


@pytest.mark.parametrize("below", ["LPBA40/native_space/S01", "native_space/S01", "."])
def test_native_space_is_recognised_and_explained(tmp_path: Path, below: str) -> None:
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    for name in ("S01.native.mri.hdr", "S01.native.mri.img.gz"):
        (tmp_path / below / name).touch()
    with pytest.raises(UserError, match=r"native space only"):
        dataset(tmp_path).manifest()


def test_a_label_without_image_and_an_image_without_label_are_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_archive(tmp_path, ids=("S01", "S02", "S03"))
    place = "LPBA40/delineation_space"
    (tmp_path / place / "S02/S02.delineation.skullstripped.hdr").unlink()
    (tmp_path / place / "S03/S03.delineation.structure.label.hdr").unlink()
    manifest = dataset(tmp_path).manifest()
    assert [case.id for case in manifest.cases] == ["S01"]
    assert manifest.excluded == {
        "S02": f"{place}/S02/S02.delineation.structure.label.hdr is a label without an image",
        "S03": f"{place}/S03/S03.delineation.skullstripped.hdr is an image without a label",
    }
    assert "lpba40: 2 case(s) left out, the first S02:" in caplog.text


def test_an_image_and_a_label_of_different_shape_are_refused_by_their_headers(tmp_path: Path) -> None:
    write_archive(tmp_path)
    label = np.zeros((12, 14, 11), np.uint8)
    path = tmp_path / "LPBA40/delineation_space/S02/S02.delineation.structure.label.hdr"
    write_analyze(path, label, 1.0)
    with pytest.raises(
        UserError, match=r"case S02: .*skullstripped.hdr has the shape \(12, 14, 10\), but .*\(12, 14, 11\)"
    ):
        dataset(tmp_path).check_headers(["S01", "S02"])
    with pytest.raises(UserError, match=r"different grids"):
        dataset(tmp_path).prepare("S02")


def test_an_image_and_a_label_with_different_affines_are_refused(
    tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    write_copies(tmp_path, write_nifti)
    affine = centred_affine(SIZE, (1, 1, 1), "LAS")
    affine[2, 3] += 0.1
    nib.save(nib.Nifti1Image(pair()[1], affine), tmp_path / "label" / "S01.delineation.structure.label.nii.gz")
    dataset(tmp_path).prepare("S02")
    with pytest.raises(UserError, match=r"different grids"):
        dataset(tmp_path).prepare("S01")


def test_a_label_stored_with_other_axes_on_the_same_grid_is_read_where_its_affine_says(
    tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    write_copies(tmp_path, write_nifti)
    straight = dataset(tmp_path).prepare("S02")
    turned = np.transpose(pair()[1][::-1], (2, 0, 1))  # LAS to SRA
    write_nifti(tmp_path / "label" / "S02.delineation.structure.label.nii.gz", turned, "SRA")
    dataset(tmp_path).check_headers(["S02"])
    item = dataset(tmp_path).prepare("S02")
    assert torch.equal(item.label.as_tensor(), straight.label.as_tensor())
    assert torch.equal(item.image.as_tensor(), straight.image.as_tensor())
    assert torch.equal(item.native_label.permute(1, 2, 0).flip(0), straight.native_label)


def test_missing_and_empty_roots_say_where_data_come_from(tmp_path: Path) -> None:
    for root, words in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "is empty")):
        with pytest.raises(UserError, match=words) as caught:
            dataset(root).check_root()
        text = str(caught.value)
        assert str(root) in text and "resource.loni.usc.edu" in text and "\n" not in text
        assert "python scripts/prepare_data.py dataset=lpba40 dataset.root=DIR simulate=12" in text


def test_a_root_that_is_a_file_or_holds_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes.txt is a file"):
        dataset(tmp_path / "notes.txt").check_root()
    with pytest.raises(UserError, match=r"nothing under dataset.root=.*like LPBA40/delineation_space"):
        dataset(tmp_path).manifest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "amygdala"}, "dataset.task=amygdala is not a task of lpba40"),
        ({"modalities": ["t2"]}, "dataset.modalities"),
        ({"modalities": []}, "dataset.modalities"),
        ({"analyze_axes": "LAT"}, "dataset.analyze_axes=LAT"),
        ({"analyze_axes": "LRS"}, "dataset.analyze_axes=LRS"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataset(tmp_path, **changes)


def test_the_simulated_cohort_reads_like_the_real_one_without_its_manifest(
    lpba40_root: Path, tmp_path: Path, lpba40: Callable[..., LPBA40]
) -> None:
    shutil.copytree(lpba40_root, tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").unlink()
    found = lpba40(root=str(tmp_path / "copy"))
    assert found.manifest().cases == lpba40().manifest().cases
    assert found.manifest().simulated and lpba40().manifest().simulated["spacing_mm"] == 4.0


def test_a_manifest_of_another_data_set_is_refused(brats2021_root: Path) -> None:
    with pytest.raises(UserError, match=r"manifest of brats2021, not of lpba40"):
        dataset(brats2021_root).manifest()


def test_the_files_are_the_analyze_of_the_archive(lpba40_root: Path) -> None:
    folder = lpba40_root / "LPBA40/delineation_space/S01"
    names = sorted(path.name for path in folder.iterdir())
    parts = ["skullstripped.hdr", "skullstripped.img.gz", "structure.label.hdr", "structure.label.img.gz"]
    assert names == [f"S01.delineation.{part}" for part in parts]
    header = nib.AnalyzeHeader.from_fileobj((folder / names[0]).open("rb"))
    assert header.get_data_shape() == (45, 54, 45, 1)
    assert read_volume(folder / names[2])[0].dtype == np.uint8
