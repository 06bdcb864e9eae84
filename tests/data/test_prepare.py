from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tcurlora_seg.data import prepare
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.examine import Examination, examine
from tcurlora_seg.data.manifest import SIMULATED, Split, load_manifest, read_manifest, write_manifest
from tcurlora_seg.data.prepare import check_folder, prepare_data
from tcurlora_seg.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
PLACE, LABEL = "LPBA40/delineation_space", "structure.label"


def config(root: Path, **changes: object) -> object:
    settings = OmegaConf.load(CONFIGS / "prepare_data.yaml")
    settings.dataset = OmegaConf.load(CONFIGS / "dataset" / "lpba40.yaml")
    settings.dataset.root = str(root)
    settings.workers, settings.spacing = 1, 8.0
    return OmegaConf.merge(settings, changes)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    prepare_data(config(root, simulate=3))
    return root


@pytest.fixture
def root(cohort: Path, tmp_path: Path) -> Path:
    """Three simulated subjects to break."""
    return Path(shutil.copytree(cohort, tmp_path / "root"))


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that are examined from now on."""
    ids: list[str] = []

    def watch(dataset: LPBA40, id: str) -> Examination:
        ids.append(id)
        return examine(dataset, id)

    monkeypatch.setattr("tcurlora_seg.data.examine.examine", watch)
    return ids


def files(root: Path, id: str, what: str) -> tuple[Path, Path]:
    header = root / PLACE / id / f"{id}.delineation.{what}.hdr"
    return header, header.with_suffix(".img.gz")


def damage(root: Path, id: str) -> None:
    _, voxels = files(root, id, "skullstripped")
    voxels.write_bytes(voxels.read_bytes()[:300])


def test_a_simulated_folder_can_be_checked_and_stays_simulated(root: Path, capsys: pytest.CaptureFixture) -> None:
    simulated = read_manifest(root / "manifest.json", root)
    (root / "manifest.json").unlink()
    assert prepare_data(config(root)).simulated  # by the marker alone
    write_manifest(simulated, root / "manifest.json")
    assert prepare_data(config(root)) == simulated == read_manifest(root / "manifest.json", root)
    assert "simulated cases" in capsys.readouterr().out


def test_what_is_wrong_is_left_out_with_its_file_and_comes_back_when_mended(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    voxels = files(root, "S02", "skullstripped")[1]
    sound = voxels.read_bytes()
    damage(root, "S02")
    manifest = prepare_data(config(root))
    assert [case.id for case in manifest.cases] == ["S01", "S03"] and list(manifest.excluded) == ["S02"]
    assert manifest.excluded["S02"].startswith(f"{PLACE}/S02/S02.delineation.skullstripped.hdr cannot be read")
    assert read_manifest(root / "manifest.json", root) == manifest
    report = json.loads((root / "check_report.json").read_text())
    assert report["usable"] == ["S01", "S03"] and report["left_out"] == manifest.excluded
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "S02/S02.delineation.skullstripped.hdr cannot be read" in shown and "left out (1) S02" in shown
    voxels.write_bytes(sound)
    assert prepare_data(config(root)).excluded == {}


def test_one_label_of_two_patients_is_noted_until_they_are_one(root: Path, capsys: pytest.CaptureFixture) -> None:
    for mine, other in zip(files(root, "S03", LABEL), files(root, "S01", LABEL), strict=True):
        shutil.copy(other, mine)
    manifest = prepare_data(config(root))
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert len(manifest.cases) == 3 and "noted (1) S03 its label is that of S01 to the voxel" in shown
    one = [replace(case, patient="P") for case in manifest.cases]
    write_manifest(replace(manifest, cases=tuple(one)), root / "manifest.json")
    prepare_data(config(root))
    assert "noted" not in capsys.readouterr().out


def test_only_what_has_changed_is_examined_again(root: Path, looked_at: list[str]) -> None:
    prepare_data(config(root))
    assert looked_at == ["S01", "S02", "S03"]
    prepare_data(config(root))
    assert len(looked_at) == 3
    os.utime(files(root, "S03", "structure.label")[1], (1, 1))  # the voxels of the label, not the header
    prepare_data(config(root))
    assert looked_at[3:] == ["S03"]
    prepare_data(config(root, dataset={"task": "structures"}))
    assert len(looked_at) == 7
    (root / "check_report.json").write_text('{"format": 1, "cases": 3}')
    prepare_data(config(root, dataset={"task": "structures"}))
    assert len(looked_at) == 10


def test_an_interrupted_check_goes_on_where_it_was(
    root: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    watched = prepare.examine_all

    def interrupted(*args: object) -> object:
        for n, found in enumerate(watched(*args)):
            if n == 2:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "examine_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_data(config(root))
    assert "goes on after 2 of 3 cases" in capsys.readouterr().err
    prepare_data(config(root))
    assert looked_at == ["S01", "S02", "S03", "S03"]
    assert "2 of 3 cases are as they were" in capsys.readouterr().out


def test_checking_again_keeps_splits_and_what_a_person_has_left_out(root: Path) -> None:
    first = read_manifest(root / "manifest.json", root)
    split = Split(("S01",), (), ("S02", "S03"))
    write_manifest(replace(first, splits={"mine": split}).without({"S03": "moved"}), root / "manifest.json")
    damage(root, "S02")
    for _ in range(3):
        again = prepare_data(config(root))
        assert again.splits == {"mine": split} and sorted(again.excluded) == ["S02", "S03"]
        assert [case.id for case in again.cases] == ["S01"]


def test_a_persons_reason_outlives_a_missing_file(root: Path) -> None:
    first = read_manifest(root / "manifest.json", root)
    write_manifest(first.without({"S03": "moved"}), root / "manifest.json")
    files(root, "S03", "structure.label")[0].unlink()
    for _ in range(2):
        assert prepare_data(config(root)).excluded == {"S03": "moved"}


@pytest.mark.parametrize("lost", ["report", "place"])
def test_the_findings_of_a_check_stay_its_own_without_its_report(root: Path, tmp_path: Path, lost: str) -> None:
    voxels = files(root, "S02", "skullstripped")[1]
    sound = voxels.read_bytes()
    damage(root, "S02")
    first = prepare_data(config(root)).without({"S03": "moved"})
    write_manifest(first, root / "manifest.json")
    if lost == "report":
        (root / "check_report.json").unlink()
    output = None if lost == "report" else str(tmp_path / "elsewhere")
    again = prepare_data(config(root, output=output))
    assert again == first == read_manifest(root / "manifest.json", root) and again.by_check == ("S02",)
    voxels.write_bytes(sound)
    assert prepare_data(config(root, output=output)).excluded == {"S03": "moved"}


def test_a_finding_that_a_person_makes_their_own_stays(root: Path) -> None:
    voxels = files(root, "S02", "skullstripped")[1]
    sound = voxels.read_bytes()
    damage(root, "S02")
    found = prepare_data(config(root))
    write_manifest(replace(found, by_check=()), root / "manifest.json")
    voxels.write_bytes(sound)
    again = prepare_data(config(root))
    assert again.excluded == found.excluded and [case.id for case in again.cases] == ["S01", "S03"]


def test_what_a_given_manifest_leaves_out_by_a_check_is_not_called_a_persons(root: Path, tmp_path: Path) -> None:
    damage(root, "S02")
    first = prepare_data(config(root)).without({"S03": "moved"})
    write_manifest(first, tmp_path / "given.json")
    assert prepare_data(config(root, dataset={"manifest": str(tmp_path / "given.json")})) == first
    report = json.loads((root / "check_report.json").read_text())
    assert report["by_hand"] == {"S03": "moved"} and list(report["left_out"]) == ["S02"]


def test_a_check_that_was_interrupted_does_not_make_its_findings_a_persons(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = files(root, "S02", "skullstripped")[1]
    sound = voxels.read_bytes()
    damage(root, "S02")
    prepare_data(config(root))
    voxels.write_bytes(sound)

    def interrupted(*args: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "examine_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_data(config(root))
    assert prepare_data(config(root)).excluded == {}


def test_a_case_of_a_split_whose_files_are_gone_is_excluded(root: Path) -> None:
    split = Split(("S01",), (), ("S02", "S03"))
    first = read_manifest(root / "manifest.json", root)
    write_manifest(replace(first, splits={"mine": split}), root / "manifest.json")
    shutil.rmtree(root / PLACE / "S03")
    again = prepare_data(config(root))
    assert again.splits == {"mine": split}
    assert again.excluded == {"S03": "its files are gone; the split 'mine' names it"}


def test_a_given_manifest_says_which_cases_are_examined(root: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    shutil.copy(Path(CONFIGS).parent / "data_manifests" / "lpba40.json", given)
    found = prepare_data(config(root, dataset={"manifest": str(given)}))
    assert [case.id for case in found.cases] == ["S01", "S02", "S03"] and len(found.excluded) == 37
    assert found.splits == load_manifest(given).splits
    assert "S04.delineation.structure.label.hdr cannot be read: there is no such file" in found.excluded["S04"]


def test_the_manifest_of_shared_data_lies_in_the_working_folder_and_training_there_takes_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "manifest.json").unlink()
    (root / SIMULATED).unlink()
    damage(root, "S02")
    monkeypatch.chdir(tmp_path)
    prepare_data(config(root))
    (folder,) = (tmp_path / "outputs" / "manifests").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["check_report.json", "manifest.json"]
    assert not list(root.glob("*.json"))
    assert set(instantiate(config(root).dataset).manifest().excluded) == {"S02"}
    monkeypatch.chdir(root)
    assert not instantiate(config(root).dataset).manifest().excluded


def test_a_root_that_must_stay_as_it_is_has_its_manifest_elsewhere(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "manifest.json").unlink()
    output = tmp_path / "elsewhere"
    prepare_data(config(root, output=str(output)))
    assert not list(root.glob("*.json"))
    assert f"train with dataset.manifest={output / 'manifest.json'}" in capsys.readouterr().out
    assert len(read_manifest(output / "manifest.json", root).cases) == 3

    def refuse(path: Path, value: object) -> None:
        raise UserError(f"cannot write {path}: Read-only file system; nothing was changed")

    monkeypatch.setattr("tcurlora_seg.data.check_report.write_json", refuse)
    with pytest.raises(UserError, match=r"Read-only file system.*output=DIR"):
        prepare_data(config(root))


def test_nothing_is_written_where_the_folder_cannot_be_used(tmp_path: Path, lpba40: Callable[..., LPBA40]) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"nothing under dataset.root"):
        check_folder(lpba40(root=str(tmp_path)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_no_usable_case_is_an_error_after_the_table(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "manifest.json").unlink()
    for id in ("S01", "S02"):
        damage(root, id)
    files(root, "S03", "structure.label")[0].unlink()
    with pytest.raises(UserError, match=r"no case under dataset.root=.* can be used"):
        prepare_data(config(root))
    assert "left out (3)" in capsys.readouterr().out
    assert not (root / "manifest.json").exists()


def test_drawn_lists_are_written_under_a_name_and_never_overwritten(root: Path, capsys: pytest.CaptureFixture) -> None:
    written = prepare_data(config(root, split={"scheme": "kfold", "folds": 3}))
    assert list(written.splits) == [f"kfold3_seed0_fold{k}" for k in range(3)]
    assert "split.scheme=kfold3_seed0_fold0: 2 train, 0 val, 1 test" in capsys.readouterr().out
    written = prepare_data(config(root, split={"scheme": "shots", "shots": 2, "validation": 1, "name": "few"}))
    assert list(written.splits)[3:] == ["few"] and read_manifest(root / "manifest.json", root) == written
    dataset = LPBA40(root=str(root), preparation=None)
    assert dataset.split(scheme="few") == dataset.split(scheme="shots", shots=2, validation=1) == written.splits["few"]
    with pytest.raises(UserError, match=r"has a split 'few' of other cases: choose another split.name"):
        prepare_data(config(root, split={"scheme": "shots", "shots": 1, "name": "few"}))
    assert load_manifest(root / "manifest.json").splits == written.splits


def test_an_older_manifest_that_cannot_be_read_is_named(tmp_path: Path, lpba40: Callable[..., LPBA40]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest.json is not a manifest"):
        check_folder(lpba40(root=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("given", [True, False])
def test_a_manifest_of_another_data_set_is_not_taken_over(root: Path, tmp_path: Path, given: bool) -> None:
    other = replace(load_manifest(root / "manifest.json"), dataset="folder")
    place = tmp_path / "given.json" if given else root / "manifest.json"
    write_manifest(other, place)
    with pytest.raises(UserError, match=rf"{place.name} is a manifest of folder, not of lpba40"):
        prepare_data(config(root, dataset={"manifest": str(place) if given else None}))
