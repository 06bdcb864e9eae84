from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom import write_dicom

from tcurlora_seg.data.formats import ending, stem
from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.notes import listen
from tcurlora_seg.data.volume import read_header, read_series, read_volume
from tcurlora_seg.errors import UserError

ARRAY = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.int16)
TURNED = centred_affine(ARRAY.shape, (1, 2, 3), "PIR")
TURNED[:3, 3] = [11, -22, 33]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.nii.gz", ("a", ".nii.gz")), ("x/A.b.NII.GZ", ("A.b", ".nii.gz")), ("a.Nii", ("a", ".nii")),
        ("a.mgz", ("a", ".mgz")), ("a.nrrd", ("a", ".nrrd")), ("a.txt", ("a.txt", "")), ("nii", ("nii", "")),
    ],
)  # fmt: skip
def test_names_are_divided_whatever_their_case(name: str, parts: tuple[str, str]) -> None:
    assert (stem(name), ending(name)) == parts


def nifti() -> nib.Nifti1Image:
    return nib.Nifti1Image(ARRAY, TURNED)


def check_same(path: Path) -> None:
    voxels, affine = read_volume(path)
    np.testing.assert_array_equal(voxels, ARRAY)
    np.testing.assert_allclose(affine, TURNED, atol=1e-5)
    assert read_header(path) == ((7, 5, 6), (3.0, 1.0, 2.0))


@pytest.mark.parametrize("name", ["a.NII.GZ", "a.NII", "a.mgz", "a.mgh"])
def test_nibabels_formats_give_the_same_volume(tmp_path: Path, name: str) -> None:
    nib.save(nifti() if "ii" in name.lower() else nib.MGHImage(ARRAY, TURNED), tmp_path / name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    check_same(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.NRRD"])
def test_simpleitks_formats_lie_where_the_nifti_lies(tmp_path: Path, name: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    nib.save(nifti(), tmp_path / "a.nii")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii")), str(tmp_path / name.lower()), useCompression=True)
    (tmp_path / name.lower()).rename(tmp_path / name)
    check_same(tmp_path / name)


def test_a_meta_image_may_be_written_without_spaces(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    nib.save(nifti(), tmp_path / "a.nii")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii")), str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(content.replace(b"ElementDataFile = LOCAL", b"ElementDataFile=LOCAL"))
    check_same(tmp_path / "a.mha")


def test_channels_of_simpleitk_come_last(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    series = np.stack([ARRAY, ARRAY + 1], axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(series.transpose(2, 1, 0, 3), isVector=True), str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_series(tmp_path / "a.nrrd")[0], series)


def test_a_dicom_series_is_a_volume_in_ras(tmp_path: Path) -> None:
    write_dicom(tmp_path / "head", ARRAY)
    voxels, affine = read_volume(tmp_path / "head")
    np.testing.assert_array_equal(voxels, ARRAY)
    np.testing.assert_allclose(affine, [[-1, 0, 0, 10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]], atol=1e-6)


def test_a_series_with_a_slice_missing_and_two_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_dicom(tmp_path / "gap", ARRAY, leave_out=3)
    with pytest.raises(UserError, match=r"gap: its slices are 3 to 6 mm apart; is one missing"):
        read_volume(tmp_path / "gap")
    write_dicom(tmp_path / "two", ARRAY)
    write_dicom(tmp_path / "two", ARRAY, series="1.2.4")
    with pytest.raises(UserError, match=r"two holds 2 DICOM series; expected one"):
        read_volume(tmp_path / "two")


@pytest.mark.parametrize(("name", "packed"), [("a.nii.gz", False), ("a.nii", True)])
def test_a_nifti_file_of_the_wrong_name_is_read_and_it_is_said(tmp_path: Path, name: str, packed: bool) -> None:
    content = nifti().to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with listen() as heard:
        check_same(tmp_path / name)
    state = "compressed" if packed else "not compressed"
    assert heard == [f"{tmp_path / name} is {state}, whatever its name says: it is read as it is"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nrrd", b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\nencoding: raw\ndata file: /etc/passwd\n\n"),
        ("a.mha", b"ObjectType = Image\nNDims = 3\nDimSize = 9 9 9\nElementDataFile = b.raw\n"),
    ],
)
def test_a_header_that_points_to_another_file_is_not_followed(tmp_path: Path, name: str, content: bytes) -> None:
    pytest.importorskip("SimpleITK")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"its voxels lie in another file; save it as one file"):
        read_volume(tmp_path / name)


def test_without_simpleitk_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(UserError, match=r"a.nrrd needs SimpleITK: pip install 'tcurlora-seg\[formats\]'"):
        read_volume(tmp_path / "a.nrrd")
