from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom import write_dicom

from tcurlora_seg.data.datasets.folder import Folder
from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.manifest import write_manifest
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepare import check_folder
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError

SIZE = (6, 8, 7)
AXES = "LPS"
RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(1, 900, SIZE).astype(np.int16) for name in ("t1", "t2")}
LABEL = RNG.choice(np.array([0, 1, 2, 9], np.int16), SIZE)
CLASSES = {"left": [1], "right": 2, "both_ends": [9]}


def dataset(root: Path, **changes: object) -> Folder:
    whole = Preparation(crop_to_brain=False)
    return Folder(**{"root": str(root), "classes": CLASSES, "preparation": whole, **changes})


@pytest.fixture
def write(tmp_path: Path, write_nifti: Callable[..., Path]) -> Callable[..., Path]:
    """A function that writes files under tmp_path by name: an image if its name has t1 or t2 in it, else the label."""

    def write_files(*names: str) -> Path:
        for name in names:
            modality = next((m for m in IMAGES if m in name and not name.startswith("labels/")), None)
            write_nifti(tmp_path / name, LABEL if modality is None else IMAGES[modality], AXES)
        return tmp_path

    return write_files


def check_case(found: Folder, id: str, modalities: tuple[str, ...] = ("t1",)) -> None:
    item = found.prepare(id)
    np.testing.assert_array_equal(item.native_label, np.array([0, 1, 2, 0, 0, 0, 0, 0, 0, 3])[LABEL])
    np.testing.assert_array_equal(item.label.as_tensor()[0].flip(0, 1), item.native_label)
    assert item.image.shape == (len(modalities), *SIZE)
    for channel, modality in zip(item.image.as_tensor(), modalities, strict=True):
        voxels = IMAGES[modality].astype(float)[::-1, ::-1]
        np.testing.assert_allclose(channel, (voxels - voxels.mean()) / voxels.std(), atol=1e-5)


def test_two_folders_are_joined_by_name(write: Callable[..., Path]) -> None:
    root = write("images/a_t1.nii.gz", "labels/a_t1.nii", "images/b_t1.v2.nii", "notes/t1.nii")
    nib.save(nib.Nifti1Image(LABEL, centred_affine(SIZE, (1, 1, 1), AXES)), root / "labels" / "b_t1.v2.nii.gz")
    (root / "images" / "._a_t1.nii.gz").touch()
    (root / "images" / "readme.txt").touch()
    found = dataset(root)
    assert [(case.id, case.patient) for case in found.manifest().cases] == [("a_t1",) * 2, ("b_t1.v2",) * 2]
    check_case(found, "b_t1.v2")
    assert found.find_cases().skipped == {}


def test_suffixes_name_modalities_and_labels_in_one_folder(write: Callable[..., Path]) -> None:
    root = write("a_t1.nii.gz", "a_t2.nii.gz", "a_seg.nii.gz", "b_t1.nii.gz", "b_seg.nii.gz", "c_t1_other.nii")
    (root / "d_seg.nii.gz").touch()
    options = {"images": ".", "labels": ".", "label_suffix": "_seg"}
    found = dataset(root, modalities=["t2", "t1"], image_suffixes=["_t2", "_t1"], **options)
    assert [case.id for case in found.manifest().cases] == ["a"]
    assert found.manifest().excluded == {"b": "b_t1.nii.gz has no t2", "d": "d_seg.nii.gz has no t2"}
    assert "c_t1_other.nii" in found.find_cases().skipped
    check_case(found, "a", ("t2", "t1"))


def test_of_two_suffixes_that_fit_the_longer_one_counts(tmp_path: Path) -> None:
    for name in ("images/a.nii", "images/a_t2.nii", "labels/a.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (case,) = dataset(tmp_path, modalities=["t1", "t2"], image_suffixes=["", "_t2"]).find_cases().cases
    assert case.id == "a" and case.images == {"t1": "images/a.nii", "t2": "images/a_t2.nii"}


def test_a_missing_partner_and_a_second_copy_are_named(write: Callable[..., Path]) -> None:
    root = write("images/a_t1.nii.gz", "images/b_t1.nii.gz", "images/a_t1.nii", "labels/a_t1.nii.gz", "labels/c.nii")
    found = dataset(root).find_cases()
    assert [case.id for case in found.cases] == ["a_t1"]
    assert found.left_out == {"b_t1": "images/b_t1.nii.gz has no label", "c": "labels/c.nii has no image"}
    assert found.skipped == {"images/a_t1.nii.gz": "another file of the case that images/a_t1.nii is of, which is used"}


@pytest.mark.parametrize(("label", "hint"), [("a_t1", False), ("a_seg", True), ("A_t1", True)])
def test_where_no_names_fit_it_is_said_what_makes_them_fit(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture, label: str, hint: bool
) -> None:
    dataset(write("images/a_t1.nii.gz", f"labels/{label}.nii.gz")).find_cases()
    assert ("dataset.image_suffixes and dataset.label_suffix say how names end" in caplog.text) == hint


def test_two_files_of_one_case_are_told(write: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    dataset(write("images/a_t1.nii", "images/a_t1.nii.gz", "labels/a_t1.nii")).manifest()
    assert "images/a_t1.nii and images/a_t1.nii.gz are two files of one case: the first is used" in caplog.text


def test_a_manifest_made_with_other_arguments_is_refused_unless_it_is_named(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write("images/a_t1.nii", "other/a_t1.nii", "labels/a_t1.nii", "rater2/a_t1.nii")
    monkeypatch.chdir(root)
    _, manifest = check_folder(dataset(root), root)
    write_manifest(manifest, root / "manifest.json")
    assert dataset(root).manifest().cases == manifest.cases
    for changes in ({"images": "other"}, {"labels": "rater2"}):
        with pytest.raises(UserError, match=r"manifest.json was made with other arguments: case a_t1 has .*/a_t1.nii"):
            dataset(root, **changes).manifest()
        named = dataset(root, manifest=str(root / "manifest.json"), **changes)
        assert named.manifest().cases == manifest.cases


def test_cases_that_an_earlier_check_left_out_are_told(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write("images/a_t1.nii", "images/b_t1.nii", "labels/a_t1.nii", "labels/b_t1.nii")
    found = dataset(root)
    manifest = replace(found.manifest().without({"b_t1": "label values 9"}), by_check=("b_t1",))
    write_manifest(manifest, root / "manifest.json")
    (line,) = dataset(root).left_aside()
    assert line.startswith("1 case(s) are left out by the check that wrote ") and "b_t1: label values 9; " in line


def test_a_datalist_of_monai_is_read_with_its_split(write: Callable[..., Path]) -> None:
    root = write(*(f"scans/{id}/{what}.nii.gz" for id in "abcd" for what in ("t1", "t2", "truth")))
    entries = [{"image": [f"./scans/{id}/t1.nii.gz", f"scans/{id}/t2.nii.gz"], "label": f"scans/{id}/truth.nii.gz"}
               for id in "abcd"]  # fmt: skip
    entries[1]["image"][1] = str(root / "scans/b/t2.nii.gz")
    entries[1] |= {"id": "second", "patient": 7}
    more = ["scans/a/t1.nii.gz", {"image": ["scans/x.nii", "scans/y.nii"]}]
    lists = {"training": entries[:2], "validation": entries[2:3], "test": [*entries[3:], more[1]]}
    (root / "list.json").write_text(json.dumps(lists))
    found = dataset(root, datalist="list.json", modalities=["t1", "t2"])
    manifest = found.manifest()
    patients = {case.id: case.patient for case in manifest.cases}
    named = {id: f"scans_{id}_t1" for id in "acd"}
    assert patients == {"second": "7", **{name: name for name in named.values()}}
    split = manifest.splits["datalist"]
    assert (split.train, split.val, split.test) == ((named["a"], "second"), (named["c"],), (named["d"],))
    assert found.find_cases().skipped.keys() == {"scans/x.nii", "scans/y.nii"}
    check_case(found, "second", ("t1", "t2"))


def test_a_draw_that_passes_over_the_datalists_own_test_cases_says_so(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = write(*(f"{folder}/{id}_t1.nii" for folder in ("images", "labels") for id in "abc"))
    entries = [{"image": f"images/{id}_t1.nii", "label": f"labels/{id}_t1.nii"} for id in "abc"]
    (root / "list.json").write_text(json.dumps({"training": entries[:2], "test": entries[2:]}))
    (root / "plain.json").write_text(json.dumps({"training": entries}))
    dataset(root, datalist="plain.json").split()
    with pytest.raises(UserError, match=r"no list of validation or test cases came with the files"):
        dataset(root, datalist="plain.json").split(scheme="datalist")
    found = dataset(root, datalist="list.json")
    assert found.split(scheme="datalist").test == ("c_t1",)
    assert len(found.split(scheme="shots", shots=1).train) == 1
    assert not caplog.text
    assert len(found.split().train) == 2
    assert "split.scheme=datalist takes the lists that came with the files" in caplog.text


def test_a_datalist_that_was_edited_counts_when_the_folder_is_checked_again(write: Callable[..., Path]) -> None:
    root = write(*(f"{folder}/{id}_t1.nii" for folder in ("images", "labels") for id in "abc"))
    pairs = {id: {"image": f"images/{id}_t1.nii", "label": f"labels/{id}_t1.nii"} for id in "abc"}
    for test in "cab":
        lists = {"training": [pairs[id] for id in "abc" if id != test], "test": [pairs[test]]}
        (root / "list.json").write_text(json.dumps(lists))
        _, manifest = check_folder(dataset(root, datalist="list.json"), root)
        assert manifest.splits["datalist"].test == (f"{test}_t1",)
        write_manifest(manifest, root / "manifest.json")


def test_one_path_in_a_datalist_is_a_file_of_all_modalities(write: Callable[..., Path]) -> None:
    root = write("truth.nii.gz")
    both = np.stack([IMAGES["t1"], IMAGES["t2"]], axis=-1)
    nib.save(nib.Nifti1Image(both, centred_affine(SIZE, (1, 1, 1), AXES)), root / "both.nii.gz")
    (root / "list.json").write_text(json.dumps({"training": [{"image": "both.nii.gz", "label": "truth.nii.gz"}]}))
    found = dataset(root, datalist="list.json", modalities=["t1", "t2"])
    check_case(found, "both", ("t1", "t2"))


def test_a_table_names_the_files_of_every_modality(write: Callable[..., Path]) -> None:
    root = write("x/a_t1.nii.gz", "x/a_t2.nii.gz", "x/a_truth.nii.gz")
    rows = [
        "id,patient,t2,t1,label,age",
        "A1,A,x/a_t2.nii.gz,x/a_t1.nii.gz,x/a_truth.nii.gz,60",
        "B1,B,,x/b.nii,x/l.nii,",
        "C1,C,x/a_t2.nii.gz,x/gone.nii,x/a_truth.nii.gz,",
    ]
    (root / "cases.csv").write_text("\ufeff" + "\n".join(rows))
    found = dataset(root, datalist="cases.csv", modalities=["t1", "t2"])
    assert [(case.id, case.patient) for case in found.manifest().cases] == [("A1", "A")]
    assert found.manifest().excluded == {
        "B1": "x/b.nii has no t2", "C1": "cases.csv lists x/gone.nii, which is not there"
    }  # fmt: skip
    check_case(found, "A1", ("t1", "t2"))


@pytest.mark.parametrize(
    ("delimiter", "code"), [(";", "utf-8-sig"), (";", "cp1252"), ("\t", "utf-16"), (",", "utf-8")]
)
def test_tables_are_read_as_spreadsheets_save_them(write: Callable[..., Path], delimiter: str, code: str) -> None:
    root = write("images/Käse_t1.nii", "labels/Käse_t1.nii")
    rows = [["id", "image", "label"], ["Käse", "images/Käse_t1.nii", "labels/Käse_t1.nii"]]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    for name, first in (("cases.csv", ""), ("marked.csv", f"sep={delimiter}\r\n")):
        (root / name).write_bytes((first + text).encode(code))
        assert [case.id for case in dataset(root, datalist=name).manifest().cases] == ["Käse"]


def test_a_list_may_lie_in_the_working_folder(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write("images/a_t1.nii", "labels/a_t1.nii")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    Path("cases.csv").write_text("id,image,label\na,images/a_t1.nii,labels/a_t1.nii")
    assert [case.id for case in dataset(root, datalist="cases.csv").manifest().cases] == ["a"]


@pytest.mark.parametrize("kind", ["links", "absolute paths"])
def test_files_outside_the_root_need_leave_everywhere(write: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    write("images/a_t1.nii", "labels/a_t1.nii")
    for folder in ("images", "labels"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / folder).rename(tmp_path / "elsewhere" / folder)
    root, more = tmp_path / "root", {}
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        if kind == "links":
            (root / folder / "a_t1.nii").symlink_to(tmp_path / "elsewhere" / folder / "a_t1.nii")
    if kind == "absolute paths":
        rows = ["image,label", ",".join(str(tmp_path / f"elsewhere/{f}/a_t1.nii") for f in ("images", "labels"))]
        (root / "cases.csv").write_text("\n".join(rows))
        more = {"datalist": "cases.csv"}
    for ask in (lambda d: d.manifest(), lambda d: check_folder(d, root)):
        with pytest.raises(UserError, match=r"not under .*dataset.outside_root=true"):
            ask(dataset(root, **more))
    allowed = dataset(root, outside_root=True, **more)
    _, manifest = check_folder(allowed, root)
    write_manifest(manifest, root / "manifest.json", outside=True)
    assert len(manifest.cases) == 1
    check_case(dataset(root, outside_root=True, **more), manifest.cases[0].id)
    with pytest.raises(UserError, match=r"dataset.outside_root=true"):
        dataset(root).manifest()


def test_a_link_to_nothing_is_named(write: Callable[..., Path]) -> None:
    root = write("images/a_t1.nii", "labels/a_t1.nii", "images/b_t1.nii")
    (root / "labels/b_t1.nii").symlink_to(root / "annex/b")
    left_out = dataset(root).find_cases().left_out
    assert left_out == {"b_t1": "labels/b_t1.nii is a link to what is not there (git annex and datalad get it)"}


def test_bids_names_tell_the_patient(write: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    names = ["sub-01_ses-1_t1", "sub-01_ses-2_t1", "sub-02_ses-1_t1"]
    root = write(*(f"{folder}/{name}.nii" for folder in ("images", "labels") for name in names))
    assert [case.patient for case in dataset(root).manifest().cases] == ["sub-01", "sub-01", "sub-02"]
    assert not caplog.text


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["P1_v1t1", "P1_v2t1", "P2_v1t1"], True), ([*(f"c_{n}t1" for n in range(6)), "d_t1"], False),
        (["case_1t1", "case_2t1"], False), (["a_t1", "b_t1"], False),
    ],
)  # fmt: skip
def test_names_that_share_a_beginning_give_a_hint(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture, names: list[str], hint: bool
) -> None:
    root = write(*(f"{folder}/{name}.nii" for folder in ("images", "labels") for name in names))
    dataset(root).find_cases()
    assert ("may be one patient's" in caplog.text) == ("P1_v1t1 and P1_v2t1 may" in caplog.text) == hint
    caplog.clear()
    dataset(root, patient=".*").find_cases()
    assert not caplog.text


def test_a_dicom_series_is_an_image(tmp_path: Path, write: Callable[..., Path]) -> None:
    pytest.importorskip("SimpleITK")
    write_dicom(tmp_path / "images" / "a", IMAGES["t1"])
    _, affine = read_volume(tmp_path / "images" / "a")
    (tmp_path / "labels").mkdir()
    nib.save(nib.Nifti1Image(LABEL, affine), tmp_path / "labels" / "a.NII.GZ".lower())
    (tmp_path / "labels" / "a.nii.gz").rename(tmp_path / "labels" / "a.NII.GZ")
    found = dataset(tmp_path)
    assert [case.id for case in found.manifest().cases] == ["a"]
    np.testing.assert_array_equal(found.prepare("a").native_label, np.array([0, 1, 2, 0, 0, 0, 0, 0, 0, 3])[LABEL])


@pytest.mark.parametrize(("pattern", "patients"), [("^[^_]+", ["P1", "P1"]), (r"_(\w)t1", ["a", "b"]), (None, None)])
def test_the_patient_is_found_in_the_id(
    write: Callable[..., Path], pattern: str | None, patients: list[str] | None
) -> None:
    names = ["P1_at1", "P1_bt1"]
    root = write(*(f"{folder}/{name}.nii.gz" for folder in ("images", "labels") for name in names))
    cases = dataset(root, patient=pattern).manifest().cases
    assert [case.patient for case in cases] == (patients or names)


def test_a_case_without_patient_is_left_out(write: Callable[..., Path]) -> None:
    root = write("images/a_t1.nii", "labels/a_t1.nii")
    with pytest.raises(UserError, match=r"the first, a_t1: dataset.patient=\^P\\d\+ does not match it"):
        dataset(root, patient=r"^P\d+").manifest()


def test_mirror_pairs_are_named_by_class(tmp_path: Path) -> None:
    assert dataset(tmp_path, mirror_pairs=[["left", "right"]]).task.mirror_pairs == ((1, 2),)
    assert dataset(tmp_path).task.mirror_pairs == ((1, 2),)  # found by their names
    assert dataset(tmp_path, mirror_pairs=[]).task.mirror_pairs == ()
    one = dataset(tmp_path, classes={"hippocampus": 17}, background=[0, 53])
    assert one.task.one_sided == ("hippocampus",)


def test_values_of_no_class_are_named_unless_they_are_background(write: Callable[..., Path]) -> None:
    root = write("images/a_t1.nii", "labels/a_t1.nii")
    with pytest.raises(UserError, match=r"labels/a_t1.nii: label values 9 .*dataset.classes=.*dataset.background"):
        dataset(root, classes={"left": [1], "right": [2]}).prepare("a_t1")
    item = dataset(root, classes={"left": [1], "right": [2]}, background=[0, 9]).prepare("a_t1")
    np.testing.assert_array_equal(item.native_label, np.where(LABEL == 9, 0, LABEL))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": {}}, r"dataset.classes=\{\}: expected"),
        ({"classes": {"a": []}}, r"dataset.classes="),
        ({"classes": {"a": [0]}}, r"values above 0"),
        ({"classes": {"a": [1], "b": [1]}}, r"each once"),
        ({"classes": {"a": ["one"]}}, r"dataset.classes="),
        ({"classes": {"a": 1.0}}, r"dataset.classes=\{'a': \[1.0\]\}: expected"),
        ({"classes": {"a": None}}, r"dataset.classes="),
        ({"background": [0, 1]}, r"dataset.background=\[0, 1\] shares a value"),
        ({"mirror_pairs": [["left", "wrong"]]}, r"\['left', 'wrong'\] is not a pair of names"),
        ({"mirror_pairs": [["left"]]}, r"is not a pair"),
        ({"image_suffixes": ["_0", "_1"]}, r"expected one for each of dataset.modalities=\['image'\]"),
        ({"labels": "images"}, r"do not tell the files of a folder apart"),
        ({"patient": "("}, r"dataset.patient=\( is not a regular expression"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataset(tmp_path, **changes)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("list.json", "{}", r"list.json is no datalist"),
        ("list.json", '{"training": [{"image": ["a", "b"], "label": "c"}]}', r"training\[0\] has .*expected 1"),
        ("list.json", '{"training": [{"label": "c"}]}', r"training\[0\] has the image None"),
        ("list.json", '{"training": [{"image": "a.nii", "label": ["c"]}]}', r"training\[0\] has the label \['c'\]"),
        ("list.json", '{"training": [{"image": "a"}], "valid": [{"image": "b"}]}', r"'valid' is none of training, "),
        ("list.json", '{"training": "a.nii", "test": null}', r"training is 'a.nii'; expected a list"),
        ("list.json", '{"training": [{"image": "/etc/a", "label": "c"}]}', r"lists /etc/a, which is not under"),
        ("list.json", '{"training": [{"image": "a.nii", "id": "x"}, {"image": "b.nii", "id": "x"}]}', r"have the id x"),
        ("cases.csv", "", r"no column image"),
        ("cases.csv", "id,image\na,b\n", r"no column label"),
        ("cases.csv", None, r"cannot read .*cases.csv"),
        ("list.json", '{"training": [{"image": "/etc/a", "label": "c"}]}', r"dataset.outside_root=true allows it"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    (tmp_path / "other").touch()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        dataset(tmp_path, datalist=name).manifest()


def test_an_empty_root_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is empty. dataset.images and dataset.labels, or dataset.datalist"):
        dataset(tmp_path).check_root()
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"like images/CASE.nii.gz and labels/CASE.nii.gz"):
        dataset(tmp_path).manifest()
