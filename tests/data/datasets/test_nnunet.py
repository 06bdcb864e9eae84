from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tcurlora_seg.data.datasets.nnunet import NNUNet
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.errors import UserError

SIZE = (6, 8, 7)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(1, 900, SIZE).astype(np.int16)
LABEL = RNG.choice(np.array([0, 1, 2, 3, 4], np.uint8), SIZE)
PLAIN = {"background": 0, "edema": 1, "Left Kidney": [2], "Right Kidney": 3, "ignore": 4}
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3, "ignore": 4}


@pytest.fixture
def raw(tmp_path: Path, write_nifti: Callable[..., Path]) -> Callable[..., Path]:
    """A function that writes nnUNet_raw/Dataset004_H with the cases a and b, of one channel unless said."""

    def write(channels: int = 1, **changes: Any) -> Path:
        folder = tmp_path / "nnUNet_raw" / "Dataset004_H"
        for id in "ab":
            for n in range(channels):
                write_nifti(folder / f"imagesTr/{id}_{n:04d}.nii.gz", IMAGE + n)
            write_nifti(folder / f"labelsTr/{id}.nii.gz", LABEL)
        names = {str(n): name for n, name in enumerate(("T1", "FLAIR")[:channels])}
        content = {"channel_names": names, "labels": PLAIN, "numTraining": 2, "file_ending": ".nii.gz", **changes}
        (folder / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
        return folder

    return write


def dataset(root: Path, **changes: object) -> NNUNet:
    return NNUNet(**{"root": str(root), "preparation": Preparation(), **changes})


def test_the_folder_or_one_above_it_is_a_right_root(raw: Callable[..., Path]) -> None:
    folder = raw(channels=2)
    for root in (folder, folder.parent, folder.parent.parent):
        found = dataset(root)
        assert found.task.name == "Dataset004_H" and found.modalities == ("t1", "flair")
        assert [case.images["flair"] for case in found.manifest().cases] == [
            "imagesTr/a_0001.nii.gz", "imagesTr/b_0001.nii.gz",
        ]  # fmt: skip
        assert found.prepare("a").image.shape == (2, *SIZE)


def test_classes_have_the_names_of_dataset_json_and_sides_are_found(raw: Callable[..., Path]) -> None:
    task = dataset(raw()).task
    assert task.classes == {1: (1,), 2: (2,), 3: (3,)}
    assert task.structures == {"edema": (1,), "left_kidney": (2,), "right_kidney": (3,)}
    assert task.mirror_pairs == ((2, 3),)


def test_regions_are_unions_of_classes(raw: Callable[..., Path]) -> None:
    task = dataset(raw(labels=REGIONS, regions_class_order=[1, 2, 3])).task
    assert task.classes == {1: (1,), 2: (2,), 3: (3,)}
    assert task.structures == {"whole_tumor": (1, 2, 3), "tumor_core": (2, 3), "enhancing_tumor": (3,)}
    merged = dataset(raw(labels={"background": 0, "all": [1, 2, 3], "core": [2, 3]})).task
    assert merged.classes == {1: (1,), 2: (2, 3)} and merged.structures == {"all": (1, 2), "core": (2,)}


def test_regions_that_overlap_have_sides_too(raw: Callable[..., Path]) -> None:
    both = {"background": 0, "left kidney": [1, 2], "left tumour": 2, "right kidney": [3, 4], "right tumour": 4}
    task = dataset(raw(labels=both)).task
    assert task.classes == {1: (1,), 2: (2,), 3: (3,), 4: (4,)} and task.structures["left_kidney"] == (1, 2)
    assert task.mirror_pairs == ((1, 3), (2, 4)) and task.mirror_axes((0, 1)) == (0, 1)
    assert dataset(raw(labels=both), mirror_pairs=[]).task.mirror_pairs == ()
    given = [["left_kidney", "right_kidney"], ["left_tumour", "right_tumour"]]
    assert dataset(raw(labels=both), mirror_pairs=given).task == task
    left = {"background": 0, "left kidney": [1, 2], "tumour": 2, "right kidney": 3}
    alone = dataset(raw(labels=left)).task
    assert alone.one_sided == ("left_kidney",) and alone.mirror_axes((0, 1)) == (1,)


def test_a_pair_of_anything_else_is_refused(raw: Callable[..., Path]) -> None:
    for labels in (PLAIN, REGIONS):
        with pytest.raises(UserError, match=r"\['left', 'right'\] is not a pair of names of dataset.json's labels"):
            dataset(raw(labels=labels), mirror_pairs=[["left", "right"]])
        with pytest.raises(UserError, match="is not a pair"):
            dataset(raw(labels=labels), mirror_pairs=[["edema"]])


def test_the_ignore_label_has_an_index_of_its_own(raw: Callable[..., Path]) -> None:
    native = dataset(raw()).prepare("a").native_label.numpy()
    np.testing.assert_array_equal(native == IGNORED, LABEL == 4)


def test_channels_of_one_name_are_told_apart_by_their_number(raw: Callable[..., Path]) -> None:
    names = {"0": "zscore", "1": "zscore"}
    found = dataset(raw(channels=2, channel_names=names), modalities=["zscore_1", "zscore_0"])
    images = {"zscore_0": "imagesTr/a_0000.nii.gz", "zscore_1": "imagesTr/a_0001.nii.gz"}
    assert found.manifest().case("a").images == images and found.channels["in_channels"] == 2
    with pytest.raises(UserError, match=r"is CT, whose values"):
        dataset(raw(channels=2, channel_names={"0": "CT", "1": "CT"}))


def test_labels_of_one_name_are_told_apart_by_their_number(raw: Callable[..., Path]) -> None:
    found = dataset(raw(labels={"background": 0, "CSF+": 1, "CSF-": 2}))
    assert dict(found.task.structures) == {"csf__1": (1,), "csf__2": (2,)}


def test_label_values_that_stand_there_as_texts_are_read_as_numbers(raw: Callable[..., Path]) -> None:
    task = dataset(raw(labels={"background": "0", "edema": "12", "all": ["12", "3"]})).task
    assert set(task.classes.values()) == {(12,), (3,)}


def test_version_1_and_a_list_of_cases_are_read(raw: Callable[..., Path]) -> None:
    labels = {"0": "background", "1": "edema", "2": "left kidney", "3": "right kidney", "4": "ignore"}
    found = dataset(raw(channel_names=None, modality={"0": "T1"}, labels=labels))
    assert list(found.task.structures) == ["edema", "left_kidney", "right_kidney"] and len(found.manifest().cases) == 2
    listed = {"x": {"images": ["./imagesTr/b_0000.nii.gz"], "label": "labelsTr/b.nii.gz"},
              "y": {"images": ["imagesTr/c_0000.nii.gz"], "label": "labelsTr/c.nii.gz"}}  # fmt: skip
    manifest = dataset(raw(dataset=listed)).manifest()
    assert [(case.id, case.images) for case in manifest.cases] == [("x", {"t1": "imagesTr/b_0000.nii.gz"})]
    assert manifest.excluded == {"y": "dataset.json lists imagesTr/c_0000.nii.gz, which is not there"}


def test_a_run_predicts_where_there_is_no_dataset_json(raw: Callable[..., Path], tmp_path: Path) -> None:
    first = dataset(raw(labels=REGIONS))
    again = pickle.loads(pickle.dumps(dataset(tmp_path / "nowhere", **first.remembered)))
    assert again.task == first.task and again.modalities == first.modalities


def test_a_channel_that_is_missing_leaves_the_case_out(raw: Callable[..., Path]) -> None:
    folder = raw(channels=2)
    (folder / "imagesTr/b_0001.nii.gz").unlink()
    assert dataset(folder).manifest().excluded == {"b": "imagesTr/b_0000.nii.gz has no flair"}
    assert len(dataset(folder, modalities=["t1"]).manifest().cases) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, r"dataset.json is not the dataset.json of an nnU-Net data set \(KeyError: 'labels'\)"),
        ({"labels": {"background": 0, "a": "one"}}, r"is not the dataset.json of an nnU-Net"),
        ({"labels": {"background": 0}}, r"Dataset004_H: there is no class but the background"),
        ({"channel_names": {"0": "CT"}}, r"Dataset004_H is CT, whose values below 0 are no background"),
        ({"dataset": {"a": {"label": "x"}}}, r"its 'dataset' lists a case without its images or label"),
    ],
)
def test_a_dataset_json_that_cannot_be_used_is_one_line(
    raw: Callable[..., Path], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        dataset(raw(**changes)).manifest()


def test_no_data_set_and_several_are_named(raw: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no dataset.json lies under dataset.root="):
        dataset(tmp_path / "empty")
    folder = raw()
    (folder.parent / "Dataset005_X").mkdir()
    (folder.parent / "Dataset005_X" / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds 2 data sets \(Dataset004_H, Dataset005_X\): give one of these folders"):
        dataset(folder.parent)
