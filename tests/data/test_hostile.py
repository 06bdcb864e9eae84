"""Whatever bytes stand in a NIfTI file: a volume as its header promises, or one line; nothing else, and no memory."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.volume import open_volume, read_header, read_series, read_volume
from tcurlora_seg.errors import UserError

ARRAY = np.random.default_rng(0).integers(0, 9, (6, 5, 4)).astype(np.int16)
NIFTI = nib.Nifti1Image(ARRAY, centred_affine(ARRAY.shape, (1, 2, 3), "LAS")).to_bytes()
READERS = (read_volume, read_series, read_header, open_volume)
MEMORY = 20_000_000  # a file of 592 bytes may hold 0.6 MB when packed; nibabel scales to float64 and copies

few = settings(max_examples=60, deadline=None, derandomize=True,
               suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


def outcome(path: Path, reader: Callable) -> str:
    """The line of the refusal, or nothing; whatever is read must be sound."""
    tracemalloc.start()
    try:
        found = reader(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY
    if reader is read_header:
        shape, zooms = found
        assert len(shape) == len(zooms) == 3 and min(shape) > 0 and all(0 < zoom < np.inf for zoom in zooms)
        return ""
    array, affine = (np.asanyarray(found.dataobj), found.affine) if reader is open_volume else found
    assert array.dtype.kind in "biuf" and min(array.shape) > 0
    assert np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) != 0
    return ""


def write(folder: Path, content: bytes, packed: bool) -> Path:
    path = folder / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    return path


@pytest.mark.parametrize("packed", [False, True])
@given(st.lists(st.tuples(st.integers(0, len(NIFTI) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@few
def test_any_bytes_of_a_file_may_be_wrong(tmp_path: Path, packed: bool, changes: list[tuple[int, int]]) -> None:
    content = bytearray(NIFTI)
    for place, value in changes:
        content[place] = value
    path = write(tmp_path, bytes(content), packed)
    for reader in READERS:
        outcome(path, reader)


FIELDS = {  # of the header: where they lie and how they are stored
    "sizeof_hdr": (0, "<i"), "dim": (40, "<8h"), "datatype": (70, "<h"), "bitpix": (72, "<h"), "pixdim": (76, "<8f"),
    "vox_offset": (108, "<f"), "scl": (112, "<2f"), "codes": (252, "<2h"), "quaternion": (256, "<6f"),
    "srow": (280, "<12f"), "magic": (344, "<4B"), "extension": (348, "<4B"),
}  # fmt: skip
HOSTILE = {
    "i": st.sampled_from([0, 348, 540, 2**31 - 1, -1]),
    "h": st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 512, 768, 1536, 1792, 2304, 32767, -1, -32768]),
    "f": st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e38, float("nan"), float("inf"), -float("inf"), 352.0, 1e9]),
    "B": st.integers(0, 255),
}


@pytest.mark.parametrize("packed", [False, True])
@given(st.data())
@few
def test_any_field_of_a_header_may_be_hostile(tmp_path: Path, packed: bool, data: st.DataObject) -> None:
    content = bytearray(NIFTI)
    for name in sorted(data.draw(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3))):
        offset, kind = FIELDS[name]
        values = list(struct.unpack_from(kind, content, offset))
        for position in data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1)):
            values[position] = data.draw(HOSTILE[kind[-1]])
        struct.pack_into(kind, content, offset, *values)
    path = write(tmp_path, bytes(content), packed)
    for reader in READERS:
        outcome(path, reader)


@pytest.mark.parametrize("packed", [False, True])
@given(st.floats(0, 1, exclude_max=True))
@few
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, packed: bool, share: float) -> None:
    path = write(tmp_path, NIFTI, packed)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert outcome(path, read_volume) and outcome(path, open_volume)


@given(st.binary(max_size=600))
@few
def test_what_is_no_image_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("a.nii", "a.nii.gz", "a.mnc", "a.hdr", "a.mgz", "a.mgh", "a.nrrd", "a.mha"):
        path = tmp_path / name
        path.write_bytes(content)
        path.with_suffix(".img").write_bytes(content)
        for reader in READERS:
            assert outcome(path, reader)


@pytest.mark.parametrize("packed", [False, True])
def test_what_a_header_promises_is_compared_with_the_file_before_it_is_allocated(tmp_path: Path, packed: bool) -> None:
    content = bytearray(NIFTI)
    for side in (32767, 2000, 100):
        struct.pack_into("<8h", content, 40, 3, side, side, side, 1, 1, 1, 1)
        path = write(tmp_path, bytes(content), packed)
        assert f"promises {2 * side**3:,} bytes of voxels" in outcome(path, read_volume)
        assert "promises" in outcome(path, read_header)


@pytest.mark.parametrize("pair", [False, True])
def test_what_an_extension_promises_is_compared_with_the_file(tmp_path: Path, pair: bool) -> None:
    image = nib.Nifti1Image.from_bytes(NIFTI)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"about thirty bytes of a comment"))
    kind, name = (nib.Nifti1Pair, "a.hdr") if pair else (nib.Nifti1Image, "a.nii")
    path = tmp_path / name
    nib.save(kind(ARRAY, image.affine, image.header), path)
    assert not outcome(path, read_volume)
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, 352, 2**31 - 16)
    path.write_bytes(content)
    assert "extension" in outcome(path, read_volume)


def test_a_packed_volume_of_one_value_is_not_taken_for_a_promise(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((200, 200, 200), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz")[0].shape == (200, 200, 200)


def changed(**fields: object) -> bytes:
    """The valid file with header fields overwritten, unchecked."""
    image = nib.Nifti1Image.from_bytes(NIFTI)
    header = image.header.copy()
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + NIFTI[348:]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim": [3, 6, 0, 4, 1, 1, 1, 1]}, "expected three axes, each of at least one voxel"),
        ({"dim": [2, 6, 5, 1, 1, 1, 1, 1]}, "expected three axes"),
        ({"datatype": 32, "bitpix": 64}, "holds complex numbers"),
        ({"datatype": 128, "bitpix": 24}, "holds colours"),
        ({"pixdim": [1, 1, 0, 1, 1, 1, 1, 1]}, "voxels of 1 x 0 x 1 mm; expected sizes above 0"),
        ({"pixdim": [1, 1, -2, 1, 1, 1, 1, 1]}, "voxels of 1 x -2 x 1 mm"),
        ({"pixdim": [1, 1, float("nan"), 1, 1, 1, 1, 1]}, "voxels of 1 x nan x 1 mm"),
        ({"srow_y": [0, float("nan"), 0, 0]}, "its affine holds NaN or infinite values"),
        ({"srow_y": [1, 0, 0, float("inf")]}, "its affine holds NaN or infinite values"),
        ({"srow_y": [0, 0, 0, 0]}, "its affine flattens the volume"),
        ({"srow_x": [1, 0, 0, 0], "srow_y": [1, 0, 0, 0]}, "its affine flattens the volume"),
    ],
)
def test_a_header_that_no_volume_can_have_is_refused(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    path = write(tmp_path, changed(**fields), packed=False)
    assert words in outcome(path, read_volume) and words in outcome(path, open_volume)


def test_tiny_voxels_are_no_flat_volume(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(ARRAY, np.diag([0.02, 0.02, 0.02, 1])), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii")[0].shape == ARRAY.shape


@pytest.mark.parametrize("name", ["a.npz", "a.nii.bz2", "a.gii", "a.nhdr", "a.txt"])
def test_other_kinds_of_files_are_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(NIFTI)
    assert "none of the images that are read: .nii.gz, .nii, .hdr, .mnc, .mgz" in outcome(tmp_path / name, read_volume)
