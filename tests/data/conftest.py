"""Tiny simulated cohorts (voxels of 4 mm), written once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import draw_head

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.brats2021 import BraTS2021
from tcurlora_seg.data.datasets.eadc_adni import EADCADNI
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.datasets.upenn_gbm import UPennGBM
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.simulate import simulate

READERS: dict[str, type[SegmentationDataset]] = {
    "lpba40": LPBA40,
    "eadc_adni": EADCADNI,
    "brats2021": BraTS2021,
    "upenn_gbm": UPennGBM,
}


@pytest.fixture(scope="session")
def lpba40_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lpba40")
    simulate("lpba40", root, subjects=7, seed=0, spacing=4.0)
    return root


@pytest.fixture(scope="session")
def eadc_adni_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eadc_adni")
    simulate("eadc_adni", root, subjects=5, seed=0, spacing=4.0)
    return root


@pytest.fixture(scope="session")
def brats2021_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brats2021")
    simulate("brats2021", root, subjects=5, seed=0, spacing=4.0)
    return root


@pytest.fixture(scope="session")
def upenn_gbm_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("upenn_gbm")
    simulate("upenn_gbm", root, subjects=5, seed=0, spacing=4.0)
    return root


@pytest.fixture(params=["lpba40", "eadc_adni", "brats2021", "upenn_gbm"])
def cohort(request: pytest.FixtureRequest) -> SegmentationDataset:
    """The simulated cohort of each data set in turn, as its own reader sees it."""
    root = request.getfixturevalue(f"{request.param}_root")
    return READERS[request.param](root=str(root), preparation=Preparation())


@pytest.fixture
def lpba40(lpba40_root: Path) -> Callable[..., LPBA40]:
    """The simulated LPBA40, with changes: lpba40(task="hippocampus_lr")."""

    def make(**changes: object) -> LPBA40:
        return LPBA40(**{"root": str(lpba40_root), "preparation": Preparation(), **changes})

    return make


@pytest.fixture
def brats2021(brats2021_root: Path) -> Callable[..., BraTS2021]:
    def make(**changes: object) -> BraTS2021:
        return BraTS2021(**{"root": str(brats2021_root), "preparation": Preparation(), **changes})

    return make


@pytest.fixture(scope="session")
def label_map_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five label maps, stored as FreeSurfer stores them: voxels run to the left, down and to the front."""
    from tcurlora_seg.data.grid import centred_affine, turn_to

    root = tmp_path_factory.mktemp("label_maps")
    affine = centred_affine((48, 48, 48), (1.0, 1.0, 1.0), "RAS")
    for number in range(5):
        lia = centred_affine((48, 48, 48), (1.0, 1.0, 1.0), "LIA")
        voxels, turned = turn_to(draw_head(number - 2), affine, lia)
        nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels), turned), root / f"head{number}.nii.gz")
    return root


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    """A function that writes a NIfTI file: write_nifti(path, array, axes="RAS")."""

    def write(path: Path, array: np.ndarray, axes: str = "RAS") -> Path:
        from tcurlora_seg.data.grid import centred_affine

        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, centred_affine(array.shape, (1.0, 1.0, 1.0), axes)), path)
        return path

    return write
