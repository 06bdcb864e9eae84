from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tcurlora_seg.data.datasets.brats2021 import BraTS2021
from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.errors import UserError

SIZE = (8, 9, 10)
NAMES = ("flair", "t1", "t1ce", "t2", "seg")
AXES = "LPS"


def volumes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {name: rng.integers(1, 900, SIZE).astype(np.int16) for name in NAMES[:4]}
    return {**found, "seg": rng.choice(np.array([0, 1, 2, 4], np.uint8), SIZE)}


@pytest.fixture
def write(write_nifti: Callable[..., Path]) -> Callable[..., None]:
    def write_case(folder: Path, *, inside: bool = False, suffix: str = ".nii.gz") -> None:
        for name, array in volumes().items():
            path = folder / f"{folder.name}_{name}{suffix}"
            write_nifti(path / path.name if inside else path, array, AXES)

    return write_case


def dataset(root: Path, **changes: object) -> BraTS2021:
    whole = Preparation(crop_to_brain=False)
    return BraTS2021(**{"root": str(root), "task": "subregions", "preparation": whole, **changes})


def check_case(found: BraTS2021, id: str) -> None:
    """Channels in the order asked for, every voxel where its world position says."""
    item, raw = found.prepare(id), volumes()
    np.testing.assert_array_equal(item.native_label, np.array([0, 1, 2, 0, 3])[raw["seg"]])
    np.testing.assert_allclose(item.affine, centred_affine(SIZE, (1, 1, 1), AXES))
    image = item.image.as_tensor().numpy()
    assert image.shape == (len(found.modalities), *SIZE)
    for channel, modality in zip(image, found.modalities, strict=True):
        voxels = raw[modality].astype(np.float64)
        expected = ((voxels - voxels.mean()) / voxels.std())[::-1, ::-1]  # LPS to RAS
        np.testing.assert_allclose(channel, expected, atol=1e-5)
    np.testing.assert_array_equal(item.label.as_tensor()[0].flip(0, 1), item.native_label)


@pytest.mark.parametrize("above", [".", "UPENN-GBM", "PKG/BraTS2021_TrainingSet/UCSF-PDGM"])
@pytest.mark.parametrize(("inside", "suffix"), [(False, ".nii.gz"), (True, ".nii.gz"), (False, ".nii"), (True, ".nii")])
def test_every_layout_reads_voxel_by_voxel(
    tmp_path: Path, write: Callable[..., None], above: str, inside: bool, suffix: str
) -> None:
    for id in ("BraTS2021_00000", "BraTS2021_00495"):
        write(tmp_path / above / id, inside=inside, suffix=suffix)
    found = dataset(tmp_path, modalities=["t1ce", "flair"])
    assert [case.id for case in found.manifest().cases] == ["BraTS2021_00000", "BraTS2021_00495"]
    check_case(found, "BraTS2021_00495")


def test_unzipped_folders_may_hold_a_file_of_another_name(tmp_path: Path, write: Callable[..., None]) -> None:
    folder = tmp_path / "BraTS2021_00000"
    write(folder, inside=True, suffix=".nii")
    flair = folder / "BraTS2021_00000_flair.nii" / "BraTS2021_00000_flair.nii"
    flair.rename(flair.with_name("00000057_brain_flair.nii"))  # as some training archives have it
    flair.with_name("._00000057_brain_flair.nii").write_bytes(b"macOS")
    check_case(dataset(tmp_path, modalities=["flair"]), "BraTS2021_00000")


def test_other_folders_and_gaps_in_the_ids_are_no_matter(tmp_path: Path, write: Callable[..., None]) -> None:
    for id in ("BraTS2021_00003", "BraTS2021_01665", "BraTS2021_00017"):
        write(tmp_path / id)
    (tmp_path / "BraTS2021_archives").mkdir()
    (tmp_path / "BraTS2021_00004.zip").touch()
    ids = [case.id for case in dataset(tmp_path).manifest().cases]
    assert ids == ["BraTS2021_00003", "BraTS2021_00017", "BraTS2021_01665"]


def test_the_same_case_under_two_sources_is_left_out(tmp_path: Path, write: Callable[..., None]) -> None:
    for place in ("a/BraTS2021_00000", "b/BraTS2021_00000", "b/BraTS2021_00002"):
        write(tmp_path / place)
    manifest = dataset(tmp_path).manifest()
    assert [case.id for case in manifest.cases] == ["BraTS2021_00002"]
    both = "a/BraTS2021_00000 and b/BraTS2021_00000"
    assert manifest.excluded == {"BraTS2021_00000": f"it is there 2 times, as {both}; keep one"}


@pytest.mark.parametrize("gone", ["seg", "t1ce"])
def test_a_case_with_a_file_missing_is_left_out_and_the_file_named(
    tmp_path: Path, write: Callable[..., None], gone: str
) -> None:
    write(tmp_path / "BraTS2021_00002")
    (tmp_path / "BraTS2021_00002" / f"BraTS2021_00002_{gone}.nii.gz").unlink()
    words = rf"none of 1 case\(s\) .*BraTS2021_00002: it has no BraTS2021_00002_{gone}.nii.gz"
    with pytest.raises(UserError, match=words):
        dataset(tmp_path).manifest()
    write(tmp_path / "BraTS2021_00003")
    assert [case.id for case in dataset(tmp_path).manifest().cases] == ["BraTS2021_00003"]


def test_a_modality_that_is_not_used_may_be_missing(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path / "BraTS2021_00002")
    (tmp_path / "BraTS2021_00002" / "BraTS2021_00002_t2.nii.gz").unlink()
    check_case(dataset(tmp_path, modalities=["t1ce"]), "BraTS2021_00002")


def test_labels_of_later_years_are_named(
    tmp_path: Path, write: Callable[..., None], write_nifti: Callable[..., Path]
) -> None:
    write(tmp_path / "BraTS2021_00002")
    seg = volumes()["seg"]
    seg[seg == 4] = 3
    write_nifti(tmp_path / "BraTS2021_00002" / "BraTS2021_00002_seg.nii.gz", seg, AXES)
    with pytest.raises(UserError, match=r"BraTS2021_00002_seg.nii.gz: label values 3 .*later years"):
        dataset(tmp_path).prepare("BraTS2021_00002")


def test_the_whole_tumour_is_the_union_of_the_subregions(brats2021: Callable[..., BraTS2021]) -> None:
    whole = brats2021().prepare("BraTS2021_00001").native_label
    parts = brats2021(task="subregions").prepare("BraTS2021_00001").native_label
    assert torch.equal(whole > 0, parts > 0)


def test_the_simulated_cohort_has_the_real_layout(brats2021_root: Path, tmp_path: Path) -> None:
    ids = sorted(path.name for path in brats2021_root.iterdir() if path.is_dir())
    assert ids == [f"BraTS2021_{n:05d}" for n in (1, 2, 3, 5, 6)]
    image = nib.load(brats2021_root / ids[0] / f"{ids[0]}_t1ce.nii.gz")
    assert image.shape == (60, 60, 39) and "".join(nib.aff2axcodes(image.affine)) == "LPS"
    assert image.get_data_dtype() == np.int16
    shutil.copytree(brats2021_root, tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").unlink()
    assert dataset(tmp_path / "copy").manifest().cases == dataset(brats2021_root).manifest().cases
