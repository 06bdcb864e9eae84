from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tcurlora_seg.data.grid import check_affine, same_grid
from tcurlora_seg.data.notes import listen
from tcurlora_seg.data.volume import read_header, read_volume
from tcurlora_seg.errors import UserError

ARRAY = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.int16)


def rotated(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(("unit", "word", "mm"), [("micron", "microns", 1000.0), ("meter", "metres", 0.001)])
def test_units_are_converted_as_the_header_says_and_said(tmp_path: Path, unit: str, word: str, mm: float) -> None:
    image = nib.Nifti1Image(ARRAY, np.array([[2, 0, 0, 9], [0, 3, 0, 8], [0, 0, 4, 7], [0, 0, 0, 1 / mm]]) * mm)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    with listen() as heard:
        _, affine = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(affine, [[2, 0, 0, 9], [0, 3, 0, 8], [0, 0, 4, 7], [0, 0, 0, 1]], rtol=1e-6)
    assert heard == [f"{tmp_path / 'a.nii'}: its header is in {word}, converted to mm"]
    np.testing.assert_allclose(read_header(tmp_path / "a.nii")[1], (2, 3, 4), rtol=1e-6)


@pytest.mark.parametrize(("size", "words"), [(0.001, "voxels of 0.001 x 0.001 x 0.001 mm; expected"),
                                             (2000.0, "voxels of 2000 x 2000 x 2000 mm; expected")])  # fmt: skip
def test_voxels_of_impossible_size_are_refused_by_every_reader(tmp_path: Path, size: float, words: str) -> None:
    nib.save(nib.Nifti1Image(ARRAY, np.diag([size, size, size, 1])), tmp_path / "a.nii")
    for reader in (read_volume, read_header):
        with pytest.raises(UserError, match=words):
            reader(tmp_path / "a.nii")


def test_a_unit_that_makes_voxels_of_impossible_size_is_named(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ARRAY, np.eye(4))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"voxels of 1000 x 1000 x 1000 mm, its header in metres; expected"):
        read_volume(tmp_path / "a.nii")


def test_slanting_axes_are_refused_and_a_turned_head_is_not() -> None:
    check_affine(rotated(0.2), "a.nii")
    sheared = np.eye(4)
    sheared[0, 1] = 0.1
    with pytest.raises(UserError, match=r"a.nii: its axes are not at right angles"):
        check_affine(sheared, "a.nii")


def test_headers_a_twentieth_of_a_voxel_apart_share_a_grid_and_it_is_said() -> None:
    moved = np.eye(4)
    with listen() as heard:
        assert same_grid((100, 100, 100), np.eye(4), moved, "a and b")
        assert not heard
        moved[0, 3] = 0.02
        assert same_grid((100, 100, 100), np.eye(4), moved, "a and b")
    assert heard == ["a and b are 0.02 voxels apart by their headers, which is taken for rounding"]
    moved[0, 3] = 0.06
    assert not same_grid((100, 100, 100), np.eye(4), moved, "a and b")
    assert same_grid((100, 100, 100), np.diag([2, 2, 2, 1]), np.diag([2, 2, 2, 1]) + (moved - np.eye(4)), "a and b")


def test_a_small_turn_moves_the_corners_of_a_large_volume() -> None:
    assert same_grid((10, 10, 10), np.eye(4), rotated(0.001), "a and b")
    assert not same_grid((200, 200, 200), np.eye(4), rotated(0.001), "a and b")
