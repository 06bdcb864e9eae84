"""The program: files in, label maps of the same names out, and one broken file among many spoils nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from dicom import write_dicom
from programs import SCRIPTS

from tcurlora_seg.data.task import Task
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.inputs import find_inputs
from tcurlora_seg.inference.predict import _line


@pytest.fixture
def folder(cohort: Path, tmp_path: Path) -> Path:
    """Two heads, as .nii and .nii.gz."""
    images = tmp_path / "images"
    images.mkdir()
    for case, name in (("S03", "one.nii"), ("S06", "two.nii.gz")):
        array, affine = read_volume(next(cohort.rglob(f"{case}*skullstripped.hdr")))
        nib.save(nib.Nifti1Image(array.astype(np.int16), affine), images / name)
    return images


def test_a_manifest_gives_the_label_maps_of_the_evaluation(
    run: Path, cohort: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    """In the data set's own label values."""
    code, out, _ = predict(f"checkpoint={run}", f"input={cohort / 'manifest.json'}", f"output={tmp_path}")
    assert code == 0 and "[7/7]" in out
    for path in sorted((run / "evaluation" / "test" / "predictions").glob("*.nii.gz")):
        ours, theirs = nib.load(tmp_path / path.name), nib.load(path)
        np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.array([0, 165, 166])[theirs.dataobj])
        np.testing.assert_allclose(ours.affine, theirs.affine)
    meaning = json.loads((tmp_path / "labels.json").read_text())
    assert meaning["structures"] == {"left_hippocampus": [165], "right_hippocampus": [166]}


def test_one_broken_file_is_reported_and_the_others_are_done(
    run: Path, folder: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    (folder / "broken.nii.gz").write_bytes((folder / "two.nii.gz").read_bytes()[:2000])
    (folder / "notes.txt").write_text("x")
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), folder / "empty.nii")
    out = tmp_path / "out"
    code, _, err = predict(f"checkpoint={run}", f"input={folder}", f"output={out}", "probabilities=true")
    assert code == 1
    assert "broken.nii.gz cannot be read as an image" in err and "empty.nii has no two different intensities" in err
    assert "2 of 4 image(s) could not be segmented: broken.nii.gz, empty.nii" in err and "Traceback" not in err
    written = ["labels.json", "one.nii", "predictions.csv", "probabilities", "two.nii.gz"]
    assert sorted(p.name for p in out.iterdir()) == written
    for name in ("one.nii", "two.nii.gz"):
        label, probabilities = nib.load(out / name), nib.load(out / "probabilities" / name)
        assert label.get_data_dtype() == np.uint8 and probabilities.shape == (*label.shape, 3)
        best = np.array([0, 165, 166])[np.asanyarray(probabilities.dataobj).argmax(-1)]
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), best)


def test_what_is_there_stays_unless_it_may_be_replaced(
    run: Path, folder: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.nii").write_text("mine")
    code, text, _ = predict(f"checkpoint={run}", f"input={folder}", f"output={out}")
    assert code == 0 and "exists: skipped" in text and (out / "one.nii").read_text() == "mine"
    assert (out / "two.nii.gz").is_file()
    assert predict(f"checkpoint={run}", f"input={folder / 'one.nii'}", f"output={out}", "overwrite=true")[0] == 0
    assert nib.load(out / "one.nii").shape == nib.load(folder / "one.nii").shape
    (out / "labels.json").write_text("{}")
    code, _, err = predict(f"checkpoint={run}", f"input={folder / 'one.nii'}", f"output={out}", "overwrite=true")
    assert code == 1 and "labels.json describes another task's label maps: choose another output" in err


def test_a_table_says_what_was_found_and_what_is_unusual(
    run: Path, folder: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    """And is completed by a later call."""
    out = tmp_path / "out"
    image = nib.load(folder / "two.nii.gz")
    fine = nib.Nifti1Image(np.repeat(np.asanyarray(image.dataobj), 2, axis=2), image.affine @ np.diag([1, 1, 0.5, 1]))
    nib.save(fine, folder / "fine.nii.gz")
    for name in ("one.nii", "fine.nii.gz"):
        code, said, _ = predict(f"checkpoint={run}", f"input={folder / name}", f"output={out}")
        assert code == 0 and said.count("\n    warning: ") == 2 and "warning: left_hippocampus: " in said
    rows = pd.read_csv(out / "predictions.csv", keep_default_na=False)
    assert list(rows["image"]) == ["fine.nii.gz", "one.nii"]
    assert list(rows.columns) == [
        "image", "seconds", "voxel_mm", "orientation", "left_hippocampus_ml", "left_hippocampus_pieces",
        "right_hippocampus_ml", "right_hippocampus_pieces", "notes", "warnings",
    ]  # fmt: skip
    assert list(rows["voxel_mm"]) == ["6 x 6 x 6"] * 2 and list(rows["orientation"]) == ["LAS"] * 2
    assert "voxels of 6 x 6 x 3 mm are resampled to the training images' 6 x 6 x 6 mm, and back" in rows["notes"][0]
    assert not rows["notes"][1] and all(", in training " in line for line in rows["warnings"])
    label = nib.load(out / "one.nii")
    volume = (np.asanyarray(label.dataobj) == 165).sum() * 0.216
    assert rows["left_hippocampus_ml"][1] == pytest.approx(volume, rel=1e-4)
    (out / "predictions.csv").write_text("x\n1\n")
    code, _, err = predict(f"checkpoint={run}", f"input={folder}", f"output={out}")
    assert code == 1 and "predictions.csv cannot be read: move it away" in err


def test_a_large_volume_tells_how_far_it_is(
    run: Path, folder: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tcurlora_seg.inference.watch._EVERY", 0.0)
    code, out, _ = predict(f"checkpoint={run}", f"input={folder / 'one.nii'}", f"output={tmp_path / 'out'}")
    assert code == 0 and re.search(r"^\[1/1\] one\.nii: \d+% of \d+ windows, about \d+ s left$", out, re.MULTILINE)


@pytest.mark.parametrize("name", ["head.NII.GZ", "head.mgz", "head.nrrd", "head.nii.gz (not compressed)"])
def test_other_formats_and_names_give_the_same_label_map(
    run: Path, folder: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]], name: str
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image, path = nib.load(folder / "one.nii"), tmp_path / name.split()[0]
    array = np.asanyarray(image.dataobj)
    if path.suffix == ".mgz":
        nib.save(nib.MGHImage(array, image.affine), path)
    elif path.suffix == ".nrrd":
        sitk.WriteImage(sitk.ReadImage(str(folder / "one.nii")), str(path))
    else:
        nib.save(image, tmp_path / "plain.nii.gz")
        (tmp_path / "plain.nii.gz").rename(path)
        if "not" in name:
            path.write_bytes((folder / "one.nii").read_bytes())
    for source, out in ((folder / "one.nii", "a"), (path, "b")):
        assert predict(f"checkpoint={run}", f"input={source}", f"output={tmp_path / out}", "mirror=false")[0] == 0
    ours, theirs = nib.load(tmp_path / "b" / "head.nii.gz"), nib.load(tmp_path / "a" / "one.nii")
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)


def test_what_needs_no_network_is_told_before_anything_heavy_is_imported(run: Path, tmp_path: Path) -> None:
    (tmp_path / "head.png").touch()
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['predict.py', 'checkpoint={run}', 'input={tmp_path / 'head.png'}', 'output=x']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPTS / 'predict.py')!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(sorted({'torch', 'monai', 'lightning', 'nibabel', 'scipy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "head.png is none of the images" in done.stderr and done.stdout.strip() == "[]", done


def test_several_runs_small_pieces_and_a_single_file(
    trained: list[Path], folder: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    runs = f"checkpoint=[{','.join(map(str, trained))}]"
    arguments = (runs, f"input={folder / 'one.nii'}", "min_component_ml={left_hippocampus: 1e5}")
    code, out, err = predict(*arguments, f"output={tmp_path / 'out'}")
    assert code == 0, err
    assert set(np.unique(nib.load(tmp_path / "out" / "one.nii").dataobj)) == {0, 166}
    assert "left_hippocampus 0 ml" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("input={folder}/three.nii",), "three.nii does not exist"),
        (("input={folder}", "output={folder}"), "is the folder of the images"),
        (("input={folder}/one.nii", "output={folder}/one.nii.gz"), "give a folder"),
        (("input={folder}/labels",), "labels holds no image: .nii.gz, .nii"),
        (("input={folder}/one.png",), "one.png is none of the images that are read"),
        (("largest_pieces=0",), "largest_pieces=0: expected a number of pieces"),
        (("second_look=2",), "second_look=2: true or false is needed"),
        (("min_share=2",), "min_share=2: expected a share of the largest piece"),
        (("input={folder}/one.nii", "strict=true"), "(strict=true)"),
        (("checkpoint=[]",), "checkpoint=[]"),
        (("checkpoint=[{run},{folder}]",), "is no finished run"),
        (("min_component_ml={{brain: 1}}",), "has no structure brain"),
        (("adapter.rank=2",), "no key 'adapter.rank'"),
        (("input={folder}/manifest.json",), "manifest.json is not a manifest"),
    ],
)
def test_mistakes_are_told(
    run: Path, folder: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...],
    expected: str,
) -> None:  # fmt: skip
    (folder / "labels").mkdir()
    (folder / "one.png").touch()
    (folder / "manifest.json").write_text("{}")
    given = dict(a.format(folder=folder, run=run).split("=", 1) for a in arguments)
    defaults = {"checkpoint": run, "input": folder, "output": tmp_path / "out"}
    code, _, err = predict(*(f"{key}={value}" for key, value in {**defaults, **given}.items()))
    assert code == 1 and expected in err, err
    assert not list((tmp_path / "out").glob("*.nii*"))


def test_a_series_keeps_its_folder_for_itself(
    run: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    write_dicom(tmp_path / "scan", np.ones((4, 5, 6), np.int16))
    before = sorted((tmp_path / "scan").iterdir())
    code, _, err = predict(f"checkpoint={run}", f"input={tmp_path / 'scan'}", f"output={tmp_path / 'scan'}")
    assert code == 1 and "is the folder of the images: choose another" in err
    assert sorted((tmp_path / "scan").iterdir()) == before


def test_runs_of_different_tasks_are_not_averaged(
    run: Path, folder: Path, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("crop_to_brain: true", "crop_to_brain: false"))
    code, _, err = predict(f"checkpoint=[{run},{other}]", f"input={folder}", f"output={tmp_path / 'out'}")
    assert code == 1 and "they differ in preparation" in err


def names(folder: Path, *modalities: str) -> dict[str, list[str]]:
    found = find_inputs(folder, modalities)
    return {item.target: [path.relative_to(folder).as_posix() for path in item.files.values()] for item in found}


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_several_modalities_are_found_by_name_in_one_folder_or_in_a_folder_a_case(tmp_path: Path) -> None:
    flat = touch(tmp_path / "flat", "a_b_t1.nii.gz", "a_b_T1ce.nii", "c_t1.nii.gz", "c_t1ce.nii.gz", "c_seg.nii.gz")
    assert names(flat, "t1", "t1ce") == {
        "a_b.nii.gz": ["a_b_t1.nii.gz", "a_b_T1ce.nii"][::-1], "c.nii.gz": ["c_t1.nii.gz", "c_t1ce.nii.gz"]
    }  # fmt: skip
    deep = touch(tmp_path / "deep", "p1/x_t1.nii.gz", "p1/x_t1ce.nii.gz", "p2/t1.nii.gz")
    assert names(deep, "t1", "t1ce") == {
        "p1.nii.gz": ["p1/x_t1.nii.gz", "p1/x_t1ce.nii.gz"], "p2.nii.gz": ["p2/t1.nii.gz"]
    }  # fmt: skip
    assert names(deep, "t1ce") == {"p1.nii.gz": ["p1/x_t1ce.nii.gz"]}
    touch(tmp_path / "deep", "p1/y_t1.nii.gz")
    with pytest.raises(UserError, match=r"x_t1\.nii\.gz and .*y_t1\.nii\.gz would both be the t1 image of p1"):
        names(deep, "t1", "t1ce")


def test_one_modality_takes_every_image_of_the_folder_and_analyze_becomes_nifti(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "b.nii.gz", "c.hdr", "c.img.gz", ".hidden.nii", "notes.txt")
    assert names(tmp_path, "t1") == {"a.nii": ["a.nii"], "b.nii.gz": ["b.nii.gz"], "c.nii.gz": ["c.hdr"]}
    touch(tmp_path / "capitals", "C.HDR", "C.IMG")
    for pair, header in (("c.img.gz", "c.hdr"), ("capitals/C.IMG", "C.HDR")):
        assert [i.name for i in find_inputs(tmp_path / pair, ("t1",))] == [header]
    touch(tmp_path, "c.nii.gz")
    with pytest.raises(UserError, match=r"c\.hdr and c\.nii\.gz would both be written as c\.nii\.gz"):
        find_inputs(tmp_path, ("t1",))


def test_files_without_a_modality_in_their_names_hold_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no image: \.nii\.gz, .* files are read"):
        find_inputs(tmp_path, ("t1", "t2"))
    touch(tmp_path, "a.nii", "b.nii.gz")
    assert names(tmp_path, "t1", "t2") == {"a.nii": ["a.nii"] * 2, "b.nii.gz": ["b.nii.gz"] * 2}
    (single,) = find_inputs(tmp_path / "a.nii", ("t1", "t2"))
    assert list(single.files.values()) == [tmp_path / "a.nii"] * 2


def test_a_structure_may_have_a_slash_in_its_name() -> None:
    """Its columns have none."""
    network: Any = SimpleNamespace(task=Task("t", {1: (1,)}, {"left/right": (1,)}))
    assert _line({"seconds": "1.0", "left_right_ml": "2", "notes": "", "warnings": ""}, network) == (
        "1.0 s, left/right 2 ml"
    )
