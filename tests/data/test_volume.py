from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tcurlora_seg.data.grid import centred_affine, turn_to
from tcurlora_seg.data.notes import listen
from tcurlora_seg.data.simulate.folder import write_analyze
from tcurlora_seg.data.volume import read_header, read_series, read_volume, whole_numbers
from tcurlora_seg.errors import UserError

ARRAY = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.int16)


@pytest.fixture
def analyze(tmp_path: Path) -> Path:
    path = tmp_path / "a.hdr"
    write_analyze(path, ARRAY, 2.0)
    return path


def test_gzipped_analyze_keeps_every_voxel_and_drops_the_fourth_axis(analyze: Path) -> None:
    array, _ = read_volume(analyze)
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, ARRAY)
    assert read_header(analyze) == ((5, 6, 7), (2.0, 2.0, 2.0))


def test_plain_analyze_reads_like_the_gzipped_one(analyze: Path) -> None:
    packed = analyze.with_suffix(".img.gz")
    analyze.with_suffix(".img").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    np.testing.assert_array_equal(read_volume(analyze)[0], ARRAY)


def test_simpleitk_reads_the_same_voxels(analyze: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(analyze))).squeeze().T, ARRAY)


@pytest.mark.parametrize("axes", ["LAS", "LPS", "RAS", "SAL"])
def test_analyze_axes_run_where_they_are_said_to(analyze: Path, axes: str) -> None:
    _, affine = read_volume(analyze, axes)
    assert "".join(nib.aff2axcodes(affine)) == axes
    np.testing.assert_allclose(affine @ [2, 2.5, 3, 1], [0, 0, 0, 1], atol=1e-12)  # the centre is the origin
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), 2.0)


def test_nifti_keeps_its_own_affine(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", ARRAY, "LPS")
    array, affine = read_volume(path, "RAS")
    np.testing.assert_array_equal(array, ARRAY)
    np.testing.assert_allclose(affine, centred_affine(ARRAY.shape, (1, 1, 1), "LPS"))


@pytest.mark.parametrize(("code", "notes"), [(0, 1), (1, 0), (2, 0)])
def test_a_header_without_an_orientation_is_noted(tmp_path: Path, code: int, notes: int) -> None:
    image = nib.Nifti1Image(ARRAY, None if code == 0 else np.eye(4))
    image.header["qform_code"] = image.header["sform_code"] = code
    nib.save(image, tmp_path / "a.nii")
    with listen() as heard:
        read_volume(tmp_path / "a.nii")
    assert len(heard) == notes and all("does not say where left and right are" in text for text in heard)
    assert all("LAS is assumed" in text for text in heard)


def _truncated(path: Path) -> None:
    packed = path.with_suffix(".img.gz")
    packed.write_bytes(packed.read_bytes()[:-60])


def _garbled(path: Path) -> None:
    path.write_bytes(b"this is no header")


def _without_voxels(path: Path) -> None:
    path.with_suffix(".img.gz").unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [(_truncated, "copy or download"), (_garbled, "copy or download"), (_without_voxels, "its .img or .img.gz")],
)
def test_a_damaged_file_is_one_line_that_names_it(analyze: Path, harm: Callable[[Path], None], words: str) -> None:
    harm(analyze)
    with pytest.raises(UserError, match=words) as caught:
        read_volume(analyze)
    assert str(analyze) in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_nifti_and_a_missing_one_are_named(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", ARRAY)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"a.nii.gz cannot be read"):
        read_volume(path)
    with pytest.raises(UserError, match=r"b.nii.gz cannot be read: there is no such file"):
        read_header(tmp_path / "b.nii.gz")


def test_a_series_of_volumes_is_refused_where_one_is_expected(tmp_path: Path) -> None:
    series = np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2)
    nib.save(nib.Nifti1Image(series, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"three axes"):
        read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_series(tmp_path / "a.nii")[0], series)
    nib.save(nib.Nifti1Image(series[..., None, :], np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(UserError, match=r"four with the channels last"):
        read_series(tmp_path / "b.nii")


def test_scaled_labels_are_rounded_and_it_is_said() -> None:
    scaled = np.array([0.0, 1.0000000149, 1.99998])
    with listen() as heard:
        assert whole_numbers(scaled, "a.nii").tolist() == [0, 1, 2]
    assert heard == ["a.nii: label values up to 2e-05 away from whole numbers are rounded"]
    with listen() as heard:
        assert whole_numbers(np.array([0.0, 3.0]), "a.nii").dtype == np.int64 and not heard


@pytest.mark.parametrize(("value", "shown"), [(1.002, "1.002"), (0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf")])
def test_label_values_that_are_no_whole_numbers_are_shown_as_they_are(value: float, shown: str) -> None:
    with pytest.raises(UserError, match=rf"a.nii: label values {shown} are no whole numbers"):
        whole_numbers(np.array([0.0, value]), "a.nii")


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SRA", "PIR"])
@pytest.mark.parametrize("other", ["RAS", "ILA"])
def test_a_turned_volume_has_every_voxel_where_it_was(axes: str, other: str) -> None:
    affine = centred_affine(ARRAY.shape, (1, 2, 3), axes)
    turned, moved = turn_to(ARRAY, affine, centred_affine((3, 3, 3), (1, 1, 1), other))
    assert "".join(nib.aff2axcodes(moved)) == other
    to_turned = np.linalg.inv(moved) @ affine
    for index in np.ndindex(*ARRAY.shape):
        assert turned[tuple(np.round(to_turned[:3] @ [*index, 1]).astype(int))] == ARRAY[index]


def test_headers_of_turned_files_agree(tmp_path: Path) -> None:
    affine = centred_affine((5, 6, 7), (1, 2, 3), "RAS")
    nib.save(nib.Nifti1Image(ARRAY, affine), tmp_path / "a.nii")
    nib.save(nib.as_closest_canonical(nib.Nifti1Image(ARRAY, affine)).as_reoriented([[2, 1], [0, -1], [1, 1]]),
             tmp_path / "b.nii")  # fmt: skip
    assert nib.load(tmp_path / "b.nii").shape == (6, 7, 5)
    assert read_header(tmp_path / "a.nii") == read_header(tmp_path / "b.nii") == ((5, 6, 7), (1, 2, 3))


def test_a_negative_voxel_size_of_an_analyze_header_is_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a.hdr"
    write_analyze(path, np.arange(24, dtype=np.int16).reshape(2, 3, 4), 2.0)
    header = bytearray(path.read_bytes())
    header[80:84] = np.float32(-2.0).tobytes()  # pixdim[1]
    path.write_bytes(header)
    voxels, affine = read_volume(path)
    assert voxels.shape == (2, 3, 4) and abs(affine[0, 0]) == 2.0


def test_the_voxel_size_is_that_of_the_affine_whatever_pixdim_says(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header["pixdim"][1:4] = 1
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    assert nib.load(tmp_path / "a.nii").header.get_zooms() == (1, 1, 1)
    assert read_header(tmp_path / "a.nii") == ((4, 5, 6), (2, 2, 3))
