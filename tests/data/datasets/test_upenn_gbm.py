from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tcurlora_seg.data.datasets.upenn_gbm import UPennGBM
from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.manifest import write_manifest
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.errors import UserError

SIZE = (7, 9, 8)
MODALITIES = ("t1", "t1gd", "t2", "flair")
AXES = "LPS"


def volumes(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {name: rng.integers(1, 900, SIZE).astype(np.int16) for name in MODALITIES}
    return {**found, "expert": rng.choice(np.array([0, 1, 2, 4], np.uint8), SIZE), "automated": np.full(SIZE, 2, "u1")}


@pytest.fixture
def write(write_nifti: Callable[..., Path]) -> Callable[..., None]:
    def write_scan(top: Path, id: str, labels: tuple[str, ...] = ("expert",), suffix: str = ".nii.gz") -> None:
        arrays = volumes()
        for name in MODALITIES:
            write_nifti(top / "images_structural" / id / f"{id}_{name.upper()}{suffix}", arrays[name], AXES)
        for name in labels:
            place = {"expert": "images_segm/{}_segm", "automated": "automated_segm/{}_automated_approx_segm"}[name]
            write_nifti(top / (place.format(id) + suffix), arrays[name], AXES)

    return write_scan


def dataset(root: Path, **changes: object) -> UPennGBM:
    whole = Preparation(crop_to_brain=False)
    return UPennGBM(**{"root": str(root), "task": "subregions", "preparation": whole, **changes})


def id(number: int, scan: int = 11) -> str:
    return f"UPENN-GBM-{number:05d}_{scan}"


@pytest.mark.parametrize("below", ["NIfTI-files", ".", "UPENN-GBM/NIfTI-files"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("modalities", [("t1gd",), ("flair", "t1", "t2", "t1gd")])
def test_every_layout_reads_voxel_by_voxel(
    tmp_path: Path, write: Callable[..., None], below: str, suffix: str, modalities: tuple[str, ...]
) -> None:
    write(tmp_path / below, id(2), suffix=suffix)
    write(tmp_path / below, id(611), suffix=suffix)
    found, raw = dataset(tmp_path, modalities=modalities), volumes()
    assert [(case.id, case.patient) for case in found.manifest().cases] == [
        ("UPENN-GBM-00002_11", "UPENN-GBM-00002"),
        ("UPENN-GBM-00611_11", "UPENN-GBM-00611"),
    ]
    item = found.prepare(id(2))
    np.testing.assert_array_equal(item.native_label, np.array([0, 1, 2, 0, 3])[raw["expert"]])
    np.testing.assert_allclose(item.affine, centred_affine(SIZE, (1, 1, 1), AXES))
    np.testing.assert_array_equal(item.label.as_tensor()[0].flip(0, 1), item.native_label)
    assert item.image.shape == (len(modalities), *SIZE)
    for channel, modality in zip(item.image.as_tensor().numpy(), modalities, strict=True):
        voxels = raw[modality].astype(float)[::-1, ::-1]  # LPS to RAS
        np.testing.assert_allclose(channel, (voxels - voxels.mean()) / voxels.std(), atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "ids", "value"),
    [("expert", [1, 3], None), ("automated", [1, 2], 2), ("expert_then_automated", [1, 2, 3], None)],
)
def test_the_kind_of_label_is_chosen(
    tmp_path: Path, write: Callable[..., None], labels: str, ids: list[int], value: int | None
) -> None:
    write(tmp_path, id(1), ("expert", "automated"))
    write(tmp_path, id(2), ("automated",))
    write(tmp_path, id(3), ("expert",))
    write(tmp_path, id(4), ())
    found = dataset(tmp_path, labels=labels)
    assert [case.id for case in found.manifest().cases] == [id(n) for n in ids]
    native = found.prepare(id(1)).native_label
    expected = volumes()["expert"] if value is None else np.full(SIZE, value)
    np.testing.assert_array_equal(native, np.array([0, 1, 2, 0, 3])[expected])
    reason = found.manifest().excluded[id(4)]
    assert f"images_structural/{id(4)} has no label" in reason and f"dataset.labels={labels}" in reason


def test_follow_ups_and_folders_within_a_scan_are_left_alone(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, id(260))
    write(tmp_path, id(1, 21), ())
    scan = tmp_path / "images_structural" / id(260)
    (scan / "old").mkdir()
    (scan / f"{id(260)}_T1GD.nii.gz").rename(scan / "old" / f"{id(260)}_T1GD.nii.gz")
    found = dataset(tmp_path).find_cases()
    assert found.cases == () and f"{id(260)}_T1GD.nii.gz" in found.left_out[id(260)]
    assert found.skipped.keys() == {f"images_structural/{id(260)}/old", f"images_structural/{id(1, 21)}"}
    assert "follow-up" in found.skipped[f"images_structural/{id(1, 21)}"]
    assert len(dataset(tmp_path, modalities=["t2"]).find_cases().cases) == 1


def test_a_label_without_images_is_named(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, id(1))
    (tmp_path / "images_segm" / f"{id(9)}_segm.nii.gz").touch()
    assert dataset(tmp_path).find_cases().left_out == {
        id(9): f"images_segm/{id(9)}_segm.nii.gz is a label without images"
    }


def test_a_manifest_of_other_labels_is_refused(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, id(1), ("expert", "automated"))
    write_manifest(dataset(tmp_path, labels="automated").manifest(), tmp_path / "manifest.json")
    for labels in ("expert", "expert_then_automated"):
        with pytest.raises(UserError, match=r"was made with other arguments: case .* has automated_segm/"):
            dataset(tmp_path, labels=labels).manifest()
    named = {"manifest": str(tmp_path / "manifest.json")}
    dataset(tmp_path, labels="expert_then_automated", **named).manifest()
    with pytest.raises(UserError, match=r"labels=expert, but the manifest lists automated_segm/.*prepare_data.py"):
        dataset(tmp_path, **named).manifest()


def test_all_scans_of_a_patient_are_on_one_side_of_a_ten_percent_split(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    for number in range(10):
        write(tmp_path, id(number))
    split = dataset(tmp_path).split()
    assert (len(split.train), len(split.val), len(split.test)) == (1, 0, 9)


def test_labels_of_another_numbering_are_named(
    tmp_path: Path, write: Callable[..., None], write_nifti: Callable[..., Path]
) -> None:
    write(tmp_path, id(1))
    write_nifti(tmp_path / "images_segm" / f"{id(1)}_segm.nii.gz", np.full(SIZE, 3, np.uint8), AXES)
    with pytest.raises(UserError, match=r"_segm.nii.gz: label values 3 are not of upenn_gbm; it has 0, 1 necrotic"):
        dataset(tmp_path).prepare(id(1))
