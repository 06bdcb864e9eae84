"""The viewer's slices: the right cases, the right voxels the right way up, and a way out when the images are gone."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tcurlora_seg.compare.collect import find_runs, read_run
from tcurlora_seg.compare.methods import Method, group_methods
from tcurlora_seg.compare.slices import choose_cases, viewer


def pixels(uri: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def read(folder: Path) -> list[Method]:
    return group_methods([read_run(run, "test") for run in find_runs(str(folder), "test")[0]])


def test_best_median_and_worst_are_of_the_mean_over_methods(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run([0.9, 0.1, 0.5, 0.6, 0.7])
    make_run([0.9, 0.9, 0.6, 0.4, 0.1], adapter="full")
    assert choose_cases(read(tmp_path / "runs")) == {"best": "c0", "median": "c1", "worst": "c4"}


@pytest.mark.parametrize(
    ("dices", "expected"),
    [([0.5], {"best": "c0"}), ([0.5, 0.6], {"best": "c1", "worst": "c0"}), ([None], {})],
)
def test_few_cases_are_shown_once(
    make_run: Callable[..., Path], tmp_path: Path, dices: list[float | None], expected: dict[str, str]
) -> None:
    make_run(dices)
    assert choose_cases(read(tmp_path / "runs")) == expected


def test_strips_hold_the_masks_of_the_files_turned_upright(demo: Path) -> None:
    methods = read(demo / "runs")
    shown = viewer(methods, None)
    assert shown["note"] == ""
    for case in shown["cases"]:
        positions = [(method, run) for method, listed in zip(methods, case["runs"], strict=True) for run in listed]
        for method, entry in positions:
            run = next(run for run in method.runs if entry["name"] == f"seed {run.repeat[0]}")
            position = entry["at"]
            path = run.folder / "predictions" / f"{case['id']}.nii.gz"
            upright = nib.as_closest_canonical(nib.load(path))
            volume = np.asarray(upright.dataobj)
            for plane, axis in zip(case["planes"], (2, 1, 0), strict=True):
                strip = pixels(plane["predictions"][position])
                count = len(plane["slices"])
                assert strip.shape == (plane["height"], plane["width"] * count)
                assert pixels(plane["image"]).shape == strip.shape
                assert plane["aspect"] == 1
                if count < 16:  # then no slice was left out
                    assert strip.sum() == volume.sum()
                areas = strip.reshape(plane["height"], count, plane["width"]).sum(axis=(0, 2))
                assert areas.max() == volume.sum(axis=tuple({0, 1, 2} - {axis})).max()


def test_every_run_has_its_own_score_and_the_worst_comes_first(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for seed, dice in enumerate((0.8, 0.5, 0.7)):
        make_run([dice], seed=seed)
    make_run([0.9], adapter="full", rank=None, trainable=9000)
    (case,) = viewer(read(tmp_path / "runs"), None)["cases"]
    assert case["runs"] == [
        [{"name": "seed 1", "dice": 0.5, "at": 0}, {"name": "seed 2", "dice": 0.7, "at": 1},
         {"name": "seed 0", "dice": 0.8, "at": 2}],
        [{"name": "seed 0", "dice": 0.9, "at": 3}],
    ]  # fmt: skip


def test_up_is_up_and_left_is_left(demo: Path, tmp_path: Path) -> None:
    """One voxel, marked left, in front of and above the middle of the head, is found there in every plane."""
    methods = read(Path(shutil.copytree(demo / "runs", tmp_path / "runs")))
    case = choose_cases(methods)["best"]
    path = methods[0].runs[0].folder / "predictions" / f"{case}.nii.gz"
    affine, volume = nib.load(path).affine, np.zeros(nib.load(path).shape, np.uint8)
    volume[tuple((np.linalg.inv(affine) @ [-40, 30, 30, 1])[:3].round().astype(int))] = 200
    nib.save(nib.Nifti1Image(volume, affine), path)
    shown = viewer(methods, None)["cases"][0]
    at = next(run["at"] for run in shown["runs"][0] if run["name"] == f"seed {methods[0].runs[0].repeat[0]}")
    for plane in shown["planes"]:
        (row, column), = np.argwhere(pixels(plane["predictions"][at]))
        beside = column % plane["width"]
        assert row < plane["height"] / 2
        assert beside > plane["width"] / 2 if plane["name"] == "sagittal" else beside < plane["width"] / 2


def test_the_truth_lies_on_an_image_stored_along_other_axes(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """A bright blob, to the left of a dark head, in a file whose axes run to the left and its label's to the right."""
    shape, data = (12, 14, 10), tmp_path / "data"
    truth = np.zeros(shape, np.uint8)
    truth[2:4, 8:10, 3:6] = 1
    image = (1 + 99 * truth).astype(np.float32)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    run = make_run([0.8], root=str(data), dataset___target_="tcurlora_seg.data.datasets.folder.Folder",
                   dataset__classes={"blob": 1}, dataset__modalities=["image"])  # fmt: skip
    folder = run / "evaluation" / "test" / "predictions"
    for place in (data / "images", data / "labels", folder):
        place.mkdir(parents=True)
    mirrored = nib.Nifti1Image(image, affine).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    assert nib.aff2axcodes(mirrored.affine) == ("L", "A", "S")
    nib.save(mirrored, data / "images" / "c0.nii.gz")
    nib.save(nib.Nifti1Image(truth, affine), data / "labels" / "c0.nii.gz")
    nib.save(nib.Nifti1Image(truth, affine), folder / "c0.nii.gz")
    shown = viewer(read(tmp_path / "runs"), None)
    assert shown["note"] == ""
    for plane in shown["cases"][0]["planes"]:
        bright, blob = pixels(plane["image"]) > 128, pixels(plane["truth"]) > 0
        assert blob.any() and (bright != blob).mean() < 0.02  # JPEG rounds edges
        np.testing.assert_array_equal(pixels(plane["predictions"][0]), pixels(plane["truth"]))
    assert [plane["aspect"] for plane in shown["cases"][0]["planes"]] == [2, 3, 1.5]


def test_without_the_images_the_runs_own_pictures_are_shown(demo: Path, tmp_path: Path) -> None:
    methods = read(Path(shutil.copytree(demo / "runs", tmp_path / "runs")))
    best = choose_cases(methods)["best"]
    Image.new("RGB", (1800, 690), "red").save(_overlay(methods[0], best))
    shown = viewer(methods, str(tmp_path / "gone"))
    assert shown["note"].startswith("No slices, but the pictures that the runs had saved: lpba40: dataset.root=")
    assert shown["note"].endswith("gone does not exist; root=DIR says where the images are.")
    pictures = {case["id"]: case["overlays"] for case in shown["cases"]}
    assert all(not case["planes"] for case in shown["cases"])
    there = [picture for picture in pictures[best] if picture]
    assert [pixels(picture).shape for picture in there] == [(345, 900, 3)]


def test_slices_are_of_all_cases_or_of_none(demo: Path, tmp_path: Path) -> None:
    methods = read(Path(shutil.copytree(demo / "runs", tmp_path / "runs")))
    chosen = choose_cases(methods)
    picture = _overlay(methods[0], chosen["best"])
    Image.new("RGB", (90, 30), "red").save(picture)
    (methods[0].runs[0].folder / "predictions" / f"{chosen['worst']}.nii.gz").unlink()
    shown = viewer(methods, None)
    assert chosen["worst"] in shown["note"] and not any(case["planes"] for case in shown["cases"])
    assert all(len(case["overlays"]) == sum(map(len, case["runs"])) for case in shown["cases"])
    assert any(shown["cases"][0]["overlays"])


def _overlay(method: Method, case: str) -> Path:
    path = method.runs[0].folder / "overlays" / f"{case}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_data_set_that_cannot_be_made_says_why(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run([0.8], task="thalamus")
    assert "dataset.task=thalamus is not a task of lpba40" in viewer(read(tmp_path / "runs"), None)["note"]


def test_the_data_may_have_moved(demo: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(demo / "data", tmp_path / "moved")
    methods = read(demo / "runs")
    assert viewer(methods, str(moved)) == viewer(methods, None)
