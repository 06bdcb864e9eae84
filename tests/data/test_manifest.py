from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tcurlora_seg.data.manifest import Case, Manifest, Split, check, read_manifest, write_manifest
from tcurlora_seg.errors import UserError

MANIFESTS = Path(__file__).parents[2] / "data_manifests"


def manifest(*ids: str, **changes: Any) -> Manifest:
    cases = tuple(Case(id, f"P{id}", {"t1": f"{id}/t1.nii"}, f"{id}/seg.nii") for id in ids)
    return Manifest("lpba40", **{"cases": cases, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for id in "abc":
        (tmp_path / id).mkdir()
        for name in ("t1.nii", "seg.nii"):
            (tmp_path / id / name).touch()
    return tmp_path


def test_writing_and_reading_gives_the_same_manifest(root: Path) -> None:
    written = manifest(
        *"abc", splits={"paper": Split(("a",), (), ("b", "c"))}, excluded={"d": "mirrored"}, by_check=("d",),
        simulated={"seed": 1},
    )  # fmt: skip
    write_manifest(written, root / "manifest.json")
    assert read_manifest(root / "manifest.json", root) == written


def test_a_label_of_two_files_and_a_brain_mask_survive_writing_and_are_looked_for(root: Path) -> None:
    label, mask = {"left": "a/seg.nii", "right": "b/seg.nii"}, "c/seg.nii"
    written = Manifest("eadc_adni", (Case("a", "a", {"t1": "a/t1.nii"}, label, mask),))
    write_manifest(written, root / "manifest.json")
    assert read_manifest(root / "manifest.json", root) == written
    for path in ("a/seg.nii", "b/seg.nii", "c/seg.nii"):
        (root / path).rename(root / "moved")
        with pytest.raises(UserError, match=f"{path} of case a is not under"):
            read_manifest(root / "manifest.json", root)
        (root / "moved").rename(root / path)


def test_a_patient_on_two_sides_is_refused() -> None:
    cases = (Case("a_1", "a", {}, "x"), Case("a_2", "a", {}, "y"), Case("b", "b", {}, "z"))
    split = Split(train=("a_1",), val=(), test=("b", "a_2"))
    with pytest.raises(UserError, match=r"patient a is both in train and in test"):
        check(Manifest("lpba40", cases, splits={"mine": split}), "m.json")


def test_two_scans_of_a_patient_may_be_on_one_side() -> None:
    cases = (Case("a_1", "a", {}, "x"), Case("a_2", "a", {}, "y"), Case("b", "b", {}, "z"))
    check(Manifest("lpba40", cases, splits={"mine": Split(("a_1", "a_2"), (), ("b",))}), "m.json")


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/t1.nii", "a/../../t1.nii", "a\0"])
def test_a_path_outside_the_root_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=r"leaves the root"):
        check(Manifest("lpba40", (Case("a", "a", {"t1": path}, None),)), "m.json")
    check(Manifest("lpba40", (Case("a", "a", {"t1": path}, None),)), "m.json", outside=True)


@pytest.mark.parametrize("id", ["../a", "a/b", "a\\b", ".a", "", "a\0"])
def test_an_id_that_would_write_a_label_map_elsewhere_is_refused(id: str) -> None:
    with pytest.raises(UserError, match=r"m.json: the case id .* is no name for a file"):
        check(Manifest("lpba40", (Case(id, "a", {}, None),)), "m.json")
    assert not schema_accepts({"format": 1, "dataset": "x", "cases": [{"id": id, "patient": "a", "images": {}}]})


def test_a_link_is_followed_within_the_root_and_not_out_of_it(root: Path, tmp_path: Path) -> None:
    write_manifest(manifest(*"abc"), root / "manifest.json")
    (root / "b/seg.nii").unlink()
    (root / "b/seg.nii").symlink_to(root / "a/seg.nii")
    read_manifest(root / "manifest.json", root)
    inner = root / "a"
    write_manifest(Manifest("x", (Case("a", "a", {"t1": "link.nii"}, None),)), inner / "manifest.json")
    (inner / "link.nii").symlink_to(root / "c/t1.nii")
    with pytest.raises(UserError, match=r"link.nii of case a is a link to .*c/t1.nii, which is not under"):
        read_manifest(inner / "manifest.json", inner)
    assert len(read_manifest(inner / "manifest.json", inner, outside=True).cases) == 1
    (inner / "link.nii").unlink()
    (inner / "link.nii").symlink_to(inner / "link.nii")
    with pytest.raises(UserError, match=r"link.nii of case a is not under"):
        read_manifest(inner / "manifest.json", inner)


def test_a_duplicate_id_is_refused() -> None:
    with pytest.raises(UserError, match=r"the case a is listed twice"):
        check(manifest("a", "b", "a"), "m.json")


def test_an_unknown_case_in_a_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"split 'paper': there is no case z \(listed under test\)"):
        check(manifest("a", splits={"paper": Split(("a",), (), ("z",))}), "m.json")


def test_a_file_that_has_moved_is_named(root: Path) -> None:
    write_manifest(manifest(*"abc"), root / "manifest.json")
    (root / "b" / "seg.nii").rename(root / "b" / "segmentation.nii")
    with pytest.raises(UserError, match=r"b/seg.nii of case b is not under"):
        read_manifest(root / "manifest.json", root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a manifest of format 1"),
        (json.dumps({"format": 2}), "not a manifest of format 1"),
        (json.dumps({"format": 1, "dataset": "x"}), "missing or of the wrong kind"),
        (json.dumps({"format": 1, "dataset": "x", "cases": [{"id": "a"}]}), "missing or of the wrong kind"),
        (json.dumps({"format": 1, "dataset": "x", "cases": [], "splits": {"p": ["a"]}}), "of the wrong kind"),
        (json.dumps({"format": 1, "dataset": "x", "cases": [{"id": 5, "patient": "a", "images": {}}]}), "'5' where a"),
        (json.dumps({"format": 1, "dataset": "x", "cases": [{"id": "a", "patient": "a", "images": {"t1": []}}]}),
         "wrong kind"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_what_is_no_manifest_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read_manifest(path, tmp_path)
    assert str(path) in str(caught.value)


def test_the_committed_lpba40_manifest_holds_the_draw_it_says() -> None:
    from tcurlora_seg.data.manifest import load_manifest
    from tcurlora_seg.data.split import draw_split

    path = MANIFESTS / "lpba40.json"
    committed = load_manifest(path)
    check(committed, path)
    assert [case.id for case in committed.cases] == [f"S{n:02d}" for n in range(1, 41)]
    bare = Manifest("lpba40", committed.cases)
    assert committed.splits == {"committed": draw_split(bare, scheme="paper", seed=0, paper=(5, 0))}
    assert draw_split(committed, scheme="paper", seed=1) == draw_split(bare, scheme="paper", seed=1)


def test_a_split_may_name_a_case_that_was_excluded(root: Path) -> None:
    whole = manifest(*"abc", splits={"paper": Split(("a",), (), ("b", "c"))})
    written = whole.without({"b": "mirrored", "z": "never there"})
    assert [case.id for case in written.cases] == ["a", "c"] and written.excluded == {"b": "mirrored"}
    write_manifest(written, root / "manifest.json")
    assert read_manifest(root / "manifest.json", root) == written


def schema_accepts(value: Any) -> bool:
    from jsonschema import Draft202012Validator

    schema = json.loads((MANIFESTS / "manifest.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema).is_valid(value)


def test_the_schema_accepts_what_is_written_and_refuses_what_reading_refuses(root: Path) -> None:
    label = {"left": "a/seg.nii", "right": "b/seg.nii"}
    cases = (Case("a", "a", {"t1": "a/t1.nii"}, label, "c/seg.nii"), Case("b", "b", {"t1": "b/t1.nii"}, None))
    splits = {"mine": Split(("a",), (), ("b",))}
    write_manifest(Manifest("x", cases, splits, {"c": "empty"}, ("c",), {"seed": 1}), root / "manifest.json")
    written = json.loads((root / "manifest.json").read_text())
    assert schema_accepts(written) and schema_accepts(json.loads((MANIFESTS / "lpba40.json").read_text()))
    for wrong in ("/etc/passwd", "../t1.nii", "a/../../t1.nii", "a\\t1.nii"):
        written["cases"][0]["label"] = wrong
        assert not schema_accepts(written), wrong
    written["cases"][0]["label"] = "a..b/..seg.nii"
    assert schema_accepts(written)
    for key in ("format", "dataset", "cases"):
        assert not schema_accepts({name: value for name, value in written.items() if name != key})
    assert not schema_accepts({**written, "cases": [{"id": "a"}]})
    assert not schema_accepts({**written, "splits": {"p": ["a"]}})
