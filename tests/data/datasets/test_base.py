"""What every data set owes to its users, whichever it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tcurlora_seg.config.messages import explain
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.folder import Folder
from tcurlora_seg.data.manifest import write_manifest
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs" / "dataset"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def dataset(name: str, root: Path) -> SegmentationDataset:
    """As configs/dataset/<name>.yaml builds it, with what that file leaves to its users."""
    node = OmegaConf.load(CONFIGS / f"{name}.yaml")
    node.root = str(root)
    if name == "folder":
        node.classes = {"target": [1]}
    if name == "nnunet" and root.is_dir() and root.name not in ("missing", "empty"):
        (root / "dataset.json").write_text(
            json.dumps({"channel_names": {"0": "T1"}, "labels": {"background": 0, "target": 1}, "numTraining": 1,
                        "file_ending": ".nii.gz"})
        )  # fmt: skip
    return instantiate(node)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "decathlon"])
def test_a_yaml_builds_its_data_set_with_the_constructors_defaults(name: str, tmp_path: Path) -> None:
    found = dataset(name, tmp_path)
    needed = {"folder": {"classes": {"target": [1]}}, "label_maps": {"synthesis": getattr(found, "synthesis", None)}}
    bare = type(found)(root=str(tmp_path), preparation=type(found.preparation)(), **needed.get(name, {}))
    assert found.name == name and found.preparation == bare.preparation
    plain = str | int | float | None
    ours, theirs = ({k: v for k, v in vars(x).items() if isinstance(v, plain)} for x in (found, bare))
    assert ours == theirs and found.task == bare.task and tuple(found.modalities) == tuple(bare.modalities)
    assert repr(found.settings()) == repr(bare.settings())


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_says_what_it_is_for_and_with_which_command(name: str) -> None:
    first, second, *_ = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ") and f"python scripts/train.py dataset={name}" in first + second


@pytest.mark.parametrize("name", NAMES)
def test_a_root_that_is_missing_empty_or_a_file_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for root in ("missing", "empty", "file"):
        with pytest.raises((UserError, InstantiationException)) as caught:
            dataset(name, tmp_path / root).check_root()
        text = explain(caught.value)
        assert root in text and "\n" not in text and "Error" not in text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_root_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    root = tmp_path / "closed"
    root.mkdir(mode=0o000)
    with pytest.raises(UserError, match=r"closed cannot be read: Permission denied"):
        dataset("lpba40", root).check_root()


@pytest.fixture
def cohort(tmp_path: Path, write_nifti: Callable[..., Path]) -> Callable[[int], Path]:
    """A function that writes that many cases of the folder data set."""

    def write(cases: int) -> Path:
        voxels = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
        for number in range(cases):
            write_nifti(tmp_path / "data" / "images" / f"{number}.nii", voxels + 1)
            write_nifti(tmp_path / "data" / "labels" / f"{number}.nii", (voxels > 60).astype(np.uint8))
        return tmp_path / "data"

    return write


def test_two_subjects_are_too_few_for_five_to_train_on(
    cohort: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dataset("folder", cohort(2))
    monkeypatch.setattr(found, "paper_split", (5, 0))
    with pytest.raises(UserError, match=r"trains on 5 patients .* there are only 2; use more cases, or split"):
        found.split()
    split = found.split(scheme="shots", shots=1)
    assert len(split.train) == len(split.test) == 1


def test_data_that_the_paper_does_not_have_are_held_out_by_default_and_one_training_case_is_said(
    cohort: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = dataset("folder", cohort(10))
    assert len(found.split().train) == 8 and not caplog.text
    with pytest.raises(UserError, match="the paper has no such data"):
        found.split(scheme="paper")
    monkeypatch.setattr(found, "paper_split", (0.1, 0))
    assert len(found.split().train) == 1
    assert "split.scheme=paper trains on one case alone and tests on 9; split.scheme=shots" in caplog.text
    caplog.clear()
    assert len(found.split(scheme="shots", shots=1).train) == 1 and not caplog.text  # asked for


def test_a_manifest_whose_files_have_moved_names_the_first(cohort: Callable[[int], Path]) -> None:
    root = cohort(2)
    write_manifest(dataset("folder", root).manifest(), root / "manifest.json")
    shutil.move(root / "images", root / "scans")
    with pytest.raises(UserError, match=r"images/0.nii of case 0 is not under .*data; if the files have moved"):
        dataset("folder", root).manifest()


def test_a_manifest_and_a_list_may_lie_in_the_home_folder(
    cohort: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    root, home = cohort(2), tmp_path
    write_manifest(dataset("folder", root).manifest(), home / "mine.json")
    (home / "list.csv").write_text("image,label\nimages/1.nii,labels/1.nii\n")
    given = {"classes": {"target": [1]}, "preparation": Preparation()}
    assert len(Folder(root=str(root), manifest="~/mine.json", **given).manifest().cases) == 2
    assert [case.id for case in Folder(root=str(root), datalist="~/list.csv", **given).find_cases().cases] == ["1"]


def test_what_leaves_the_root_is_refused_without_a_manifest_too(cohort: Callable[[int], Path]) -> None:
    root = cohort(1)
    shutil.copy(root / "images" / "0.nii", root.parent / "outside.nii")
    (root / "list.csv").write_text("image,label\n../outside.nii,labels/0.nii\n")
    found = dataset("folder", root)
    found._datalist = "list.csv"
    with pytest.raises(UserError, match=r"the path ../outside.nii of case outside leaves the root"):
        found.manifest()


def test_a_mask_takes_everything_else_off_the_image(cohort: Callable[[int], Path], write_nifti: Callable) -> None:
    from dataclasses import replace

    root = cohort(1)
    found = dataset("folder", root)
    manifest = found.manifest()
    half = np.zeros((4, 4, 4), np.uint8)
    half[:, :, 2:] = 5
    write_nifti(root / "mask.nii", half)
    found.adopt(replace(manifest, cases=(replace(manifest.cases[0], mask="mask.nii"),)))
    assert found.prepare("0").image.shape == (1, 4, 4, 2)
