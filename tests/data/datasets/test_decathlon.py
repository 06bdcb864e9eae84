from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tcurlora_seg.data.datasets.decathlon import _TASKS, Decathlon
from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.errors import UserError

SIZE = (6, 8, 7)
HIPPOCAMPUS = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
TUMOUR = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}
SPLEEN = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
WHOLE = Preparation(crop_to_brain=False)


def arrays(classes: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    image = rng.integers(1, 900, (*SIZE, channels)[: 3 + (channels > 1)]).astype(np.float32)
    return image, rng.integers(0, classes, SIZE).astype(np.uint8)


@pytest.fixture
def write(tmp_path: Path, write_nifti: Callable[..., Path]) -> Callable[..., Path]:
    def write_task(task: str, what: dict, ids: tuple[str, ...] = ("case_001", "case_004")) -> Path:
        folder = tmp_path / task
        image, label = arrays(len(what["labels"]), len(what["modality"]))
        affine = centred_affine(SIZE, (1, 1, 1), "LAS")
        for place in ("imagesTr", "imagesTs"):
            (folder / place).mkdir(parents=True)
        for id in ids:
            nib.save(nib.Nifti1Image(image, affine), folder / "imagesTr" / f"{id}.nii.gz")
            write_nifti(folder / "labelsTr" / f"{id}.nii.gz", label, "LAS")
            (folder / "imagesTr" / f"._{id}.nii.gz").write_bytes(b"macOS")
        (folder / "imagesTs" / "case_900.nii.gz").touch()
        listed = [{"image": f"./imagesTr/{id}.nii.gz", "label": f"./labelsTr/{id}.nii.gz"} for id in reversed(ids)]
        whole = {"name": task, **what, "training": listed, "test": ["./imagesTs/case_900.nii.gz"]}
        (folder / "dataset.json").write_text(json.dumps(whole))
        return tmp_path

    return write_task


def dataset(root: Path, task: str, **changes: object) -> Decathlon:
    return Decathlon(**{"root": str(root), "task": task, "preparation": WHOLE, **changes})


@pytest.mark.parametrize("below", ["", "Task04_Hippocampus"])
def test_a_task_of_one_modality_reads_voxel_by_voxel(write: Callable[..., Path], below: str) -> None:
    found = dataset(write("Task04_Hippocampus", HIPPOCAMPUS) / below, "Task04_Hippocampus")
    manifest = found.manifest()
    assert [case.id for case in manifest.cases] == ["case_001", "case_004"]
    assert found.task.structures == {"anterior": (1,), "posterior": (2,)} and found.task.out_channels == 3
    image, label = arrays(3, 1)
    item = found.prepare("case_004")
    np.testing.assert_array_equal(item.native_label, label)
    np.testing.assert_array_equal(item.label.as_tensor()[0], label[::-1])
    expected = (image - image.mean()) / image.std()
    np.testing.assert_allclose(item.image.as_tensor()[0], expected[::-1], atol=1e-5)
    assert found.find_cases().skipped == {"imagesTs/case_900.nii.gz": "a test image, which has no label"}


@pytest.mark.parametrize("modalities", [None, ["t2w"], ["t1gd", "flair"]])
def test_the_channels_of_one_file_are_read_by_name(write: Callable[..., Path], modalities: list[str] | None) -> None:
    found = dataset(write("Task01_BrainTumour", TUMOUR), "Task01_BrainTumour", modalities=modalities)
    names = ["flair", "t1w", "t1gd", "t2w"]
    assert found.modalities == tuple(modalities or names)
    found.manifest()
    found.check_headers(["case_001"])
    assert found.cohort == f"decathlon/{found.task.name}"
    image, label = arrays(4, 4)
    item = found.prepare("case_001")
    assert item.image.shape == (len(found.modalities), *SIZE)
    for channel, name in zip(item.image.as_tensor(), found.modalities, strict=True):
        voxels = image[..., names.index(name)].astype(np.float64)
        np.testing.assert_allclose(channel, ((voxels - voxels.mean()) / voxels.std())[::-1], atol=1e-5)
    assert torch.equal(item.native_label, torch.from_numpy(label))


def test_the_first_task_is_scored_in_regions_too(write: Callable[..., Path]) -> None:
    structures = dataset(write("Task01_BrainTumour", TUMOUR), "Task01_BrainTumour").task.structures
    assert structures == {
        "edema": (1,), "non_enhancing_tumor": (2,), "enhancing_tumour": (3,),
        "whole_tumor": (1, 2, 3), "tumor_core": (2, 3),
    }  # fmt: skip


def test_a_file_with_other_channels_than_its_list_is_named(write: Callable[..., Path]) -> None:
    root = write("Task05_Prostate", {**HIPPOCAMPUS, "modality": {"0": "T2", "1": "ADC"}})
    listed = root / "Task05_Prostate/dataset.json"
    listed.write_text(listed.read_text().replace('"0": "T2", "1": "ADC"', '"0": "T2"'))
    with pytest.raises(UserError, match=r"case_001: imagesTr/case_001.nii.gz holds 2 volume\(s\); expected 1 \(t2\)"):
        dataset(root, "Task05_Prostate").prepare("case_001")


def test_ct_is_not_scaled_by_voxels_above_0(write: Callable[..., Path]) -> None:
    root = write("Task09_Spleen", SPLEEN)
    with pytest.raises(UserError, match=r"Task09_Spleen is CT.*dataset.preparation.intensity=window"):
        dataset(root, "Task09_Spleen")
    window = Preparation(crop_to_brain=False, intensity="window", limits=[100, 500])
    item = dataset(root, "Task09_Spleen", preparation=window).prepare("case_001")
    expected = np.clip((arrays(2, 1)[0][::-1] - 100) / 400, 0, 1)
    np.testing.assert_allclose(item.image.as_tensor()[0], expected, atol=1e-6)


def test_a_listed_file_that_is_missing_leaves_its_case_out(write: Callable[..., Path]) -> None:
    root = write("Task04_Hippocampus", HIPPOCAMPUS)
    (root / "Task04_Hippocampus/labelsTr/case_001.nii.gz").unlink()
    manifest = dataset(root, "Task04_Hippocampus").manifest()
    assert [case.id for case in manifest.cases] == ["case_004"]
    assert "labelsTr/case_001.nii.gz, which is not there" in manifest.excluded["case_001"]
    assert list(dataset(root, "Task04_Hippocampus").find_cases().skipped) == ["imagesTs/case_900.nii.gz"]


def test_unknown_values_are_named_with_those_of_the_list(
    write: Callable[..., Path], write_nifti: Callable[..., Path]
) -> None:
    root = write("Task04_Hippocampus", HIPPOCAMPUS)
    write_nifti(root / "Task04_Hippocampus/labelsTr/case_001.nii.gz", np.full(SIZE, 7, np.uint8), "LAS")
    with pytest.raises(UserError, match=r"label values 7 .*0 background, 1 anterior, 2 posterior"):
        dataset(root, "Task04_Hippocampus").prepare("case_001")


def test_a_task_that_is_not_there_says_how_to_have_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Task02_Heart/dataset.json. dataset.download=true fetches it"):
        dataset(tmp_path, "Task02_Heart")
    with pytest.raises(UserError, match=r"Task11_Knee is not a task of decathlon"):
        dataset(tmp_path, "Task11_Knee")
    (tmp_path / "Task02_Heart").mkdir()
    (tmp_path / "Task02_Heart/dataset.json").write_text('{"modality": {}}')
    with pytest.raises(UserError, match=r"dataset.json is not the dataset.json of a Decathlon task \(KeyError"):
        dataset(tmp_path, "Task02_Heart")


def test_monai_knows_an_address_of_every_task() -> None:
    from monai.apps import DecathlonDataset

    assert set(_TASKS) == set(DecathlonDataset.resource) == set(DecathlonDataset.md5)


def test_a_download_goes_through_monai_and_its_failure_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monai.apps import DecathlonDataset

    monkeypatch.setitem(DecathlonDataset.resource, "Task02_Heart", (tmp_path / "none" / "heart.tar").as_uri())
    with pytest.raises(UserError, match=r"Task02_Heart could not be downloaded to") as caught:
        dataset(tmp_path / "data", "Task02_Heart", download=True)
    assert "\n" not in str(caught.value)


def test_a_downloaded_archive_is_unpacked_and_read(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    import tarfile

    from monai.apps import DecathlonDataset

    archive = tmp_path / "served" / "Task04_Hippocampus.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        tar.add(write("Task04_Hippocampus", HIPPOCAMPUS) / "Task04_Hippocampus", "Task04_Hippocampus")
    monkeypatch.setitem(DecathlonDataset.resource, "Task04_Hippocampus", archive.as_uri())
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(DecathlonDataset.md5, "Task04_Hippocampus", checksum)
    found = dataset(tmp_path / "fetched", "Task04_Hippocampus", download=True)
    assert len(found.manifest().cases) == 2
    monkeypatch.setitem(DecathlonDataset.md5, "Task04_Hippocampus", "0" * 32)
    with pytest.raises(UserError, match=r"could not be downloaded to .*md5 hash check"):
        dataset(tmp_path / "again", "Task04_Hippocampus", download=True)
    assert not (tmp_path / "again" / "Task04_Hippocampus").exists()
