from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.manifest import Split, load_manifest, read_manifest, write_manifest
from tcurlora_seg.data.prepare import check_folder, prepare_data
from tcurlora_seg.errors import UserError


def config(root: Path, **changes: object) -> object:
    dataset = OmegaConf.load(Path(__file__).parents[2] / "configs/dataset/lpba40.yaml")
    dataset.root = str(root)
    return OmegaConf.create({"dataset": dataset, "simulate": None, "spacing": 8.0, "seed": 0, **changes})


def test_a_simulated_folder_can_be_checked_and_stays_simulated(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "cohort"
    simulated = prepare_data(config(root, simulate=2))
    (root / "manifest.json").rename(tmp_path / "kept.json")
    assert prepare_data(config(root)).simulated  # by the marker alone
    (tmp_path / "kept.json").replace(root / "manifest.json")
    assert prepare_data(config(root)) == simulated == read_manifest(root / "manifest.json", root)
    assert "2 simulated cases" in capsys.readouterr().out


def test_checking_again_keeps_splits_and_what_was_left_out(tmp_path: Path) -> None:
    root = tmp_path / "cohort"
    first = prepare_data(config(root, simulate=3))
    split = Split(("S01",), (), ("S02",))
    write_manifest(replace(first, splits={"mine": split}, excluded={"S03": "mirrored"}), root / "manifest.json")
    second = prepare_data(config(root))
    assert second.splits == {"mine": split} and second.excluded == {"S03": "mirrored"}
    assert [case.id for case in second.cases] == ["S01", "S02"]


def test_nothing_is_written_where_the_folder_cannot_be_used(tmp_path: Path, lpba40: Callable[..., LPBA40]) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"nothing under dataset.root"):
        check_folder(lpba40(root=str(tmp_path)))
    assert not (tmp_path / "manifest.json").exists()


def test_the_yaml_files_build_their_data_sets_with_the_constructors_defaults() -> None:
    from hydra.utils import instantiate

    for name in ("lpba40", "brats2021"):
        node = OmegaConf.load(Path(__file__).parents[2] / f"configs/dataset/{name}.yaml")
        dataset = instantiate(node)
        bare = type(dataset)(root=node.root, preparation=type(dataset.preparation)())
        assert dataset.name == name and dataset.task == bare.task and dataset.modalities == bare.modalities
        assert dataset.preparation == bare.preparation


def test_an_older_manifest_that_cannot_be_read_is_named(tmp_path: Path, lpba40: Callable[..., LPBA40]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest.json is not a manifest"):
        check_folder(lpba40(root=str(tmp_path)))
    assert load_manifest(Path(__file__).parents[2] / "data_manifests/lpba40.json").splits
