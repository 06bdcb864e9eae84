from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from tcurlora_seg.data import known_defects as defects
from tcurlora_seg.data.datasets.eadc_adni import EADCADNI
from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.errors import UserError

_RAS = nib.orientations.axcodes2ornt("RAS")
SIZE = (8, 10, 12)
WHOLE = Preparation(crop_to_brain=False)
A, B = "002_S_0295", "136_S_1227"
IMAGE = 1 + np.random.default_rng(0).permutation(int(np.prod(SIZE))).reshape(SIZE)
LEFT, RIGHT = (slice(2, 4), slice(3, 6), slice(4, 7)), (slice(5, 6), slice(3, 6), slice(4, 7))
RAW = np.zeros(SIZE, np.uint8)
RAW[LEFT], RAW[RIGHT] = 1, 2
"""Image and label on axes that run to the right, front and top."""


def turned(array: np.ndarray, axes: str) -> np.ndarray:
    """A copy of an RAS array stored along other axes."""
    to = nib.orientations.axcodes2ornt(axes)
    return nib.orientations.apply_orientation(array, nib.orientations.ornt_transform(_RAS, to))


def write_minc(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """A minimal MINC2 file: z, y, x in this order, 16-bit values scaled slice by slice to their range."""
    path.parent.mkdir(parents=True, exist_ok=True)
    low, high = float(array.min()), float(array.max())
    with h5py.File(path, "w") as file:
        image = file.create_group("minc-2.0/image/0")
        stored = np.round((array.transpose(2, 1, 0) - low) / (high - low) * 65534 - 32767).astype(np.int16)
        voxels = image.create_dataset("image", data=stored)
        voxels.attrs["dimorder"] = np.bytes_("zspace,yspace,xspace")
        voxels.attrs["valid_range"] = np.array([-32767.0, 32767.0])
        for name, value in (("image-max", high), ("image-min", low)):
            image.create_dataset(name, data=np.full(array.shape[2], value)).attrs["dimorder"] = np.bytes_("zspace")
        for axis, name in enumerate(("xspace", "yspace", "zspace")):
            dimension = file.create_dataset(f"minc-2.0/dimensions/{name}", data=0)
            dimension.attrs["start"], dimension.attrs["step"] = affine[axis, 3], affine[axis, axis]
            dimension.attrs["length"] = array.shape[axis]
            dimension.attrs["direction_cosines"] = np.eye(3)[axis]
            dimension.attrs["spacing"] = np.bytes_("regular__")


@pytest.fixture
def write_labels(write_nifti: Callable[..., Path]) -> Callable[..., None]:
    def write(root: Path, id: str, axes: str = "RAS", zero: float = 0, folder: str = "Labels_100_NIFTI") -> None:
        for side, value, suffix in (("L", 1, ".nii"), ("R", 2, ".nii.gz")):
            mask = turned(value == RAW, axes).astype(np.uint8 if zero == 0 else np.float64) + zero
            write_nifti(root / folder / f"ADNI_{id}_74384_{side}{suffix}", mask, axes)
            write_nifti(root / folder / f"ADNI_{id}_74384_CSF_{side}{suffix}", mask, axes)

    return write


@pytest.fixture
def write_loni(write_nifti: Callable[..., Path]) -> Callable[..., Path]:
    def write(root: Path, id: str, axes: str = "RAS", number: int = 1234) -> Path:
        folder = root / "ADNI" / id / "HarP_135_final_release_2015" / "2005-11-02_08_51_47.0" / "S11099"
        name = f"ADNI_{id}_MR_HarP_135_final_release_2015_Br_20150226095012465_S11099_I{number}.nii"
        return write_nifti(folder / name, turned(IMAGE, axes).astype(np.float32), axes)

    return write


def dataset(root: Path, **changes: object) -> EADCADNI:
    return EADCADNI(**{"root": str(root), "task": "hippocampus_lr", "preparation": WHOLE, **changes})


def check_case(
    found: EADCADNI, id: str, axes: str = "RAS", values: np.ndarray = RAW, image: np.ndarray = IMAGE
) -> None:
    """Every voxel where its world position says, and the label's file as the native grid."""
    item = found.prepare(id)
    np.testing.assert_array_equal(item.native_label, turned(values, axes))
    np.testing.assert_allclose(item.affine, centred_affine(turned(RAW, axes).shape, (1, 1, 1), axes))
    np.testing.assert_array_equal(item.label.as_tensor()[0], values)
    brain = image > 0
    mean, std = image[brain].mean(), image[brain].std()
    np.testing.assert_allclose(item.image.as_tensor()[0], np.where(brain, (image - mean) / std, 0), atol=3e-4)


@pytest.mark.parametrize("image_axes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("label_axes", ["RAS", "LAS"])
def test_the_loni_tree_reads_voxel_by_voxel(
    tmp_path: Path, write_labels: Callable, write_loni: Callable, image_axes: str, label_axes: str
) -> None:
    for id, number in ((A, 1), (B, 22)):
        write_labels(tmp_path, id, label_axes, folder="Labels_35_NIFTI" if id == B else "Labels_100_NIFTI")
        write_loni(tmp_path, id, image_axes, number)
    found = dataset(tmp_path)
    assert [case.id for case in found.manifest().cases] == [A, B]
    found.check_headers([A, B])
    check_case(found, B, label_axes)


@pytest.mark.parametrize("folder", ["100", "35"])
@pytest.mark.parametrize("label_axes", ["RAS", "LPS"])
def test_the_minc_set_reads_voxel_by_voxel(
    tmp_path: Path, write_labels: Callable, folder: str, label_axes: str
) -> None:
    write_labels(tmp_path, A, label_axes)
    write_minc(tmp_path / folder / f"ADNI_{A}_74384_ACPC.mnc", IMAGE, centred_affine(SIZE, (1, 1, 1), "RAS"))
    found = dataset(tmp_path)
    found.manifest()
    found.check_headers([A])
    check_case(found, A, label_axes)


@pytest.mark.parametrize("zero", [0, 26896.988, -3.5])
def test_odd_values_of_a_mask_are_background_and_hippocampus(
    tmp_path: Path, write_labels: Callable, write_loni: Callable, zero: float
) -> None:
    write_labels(tmp_path, A, zero=zero)
    write_loni(tmp_path, A)
    check_case(dataset(tmp_path), A)
    found = dataset(tmp_path, task="hippocampus")
    np.testing.assert_array_equal(found.prepare(A).native_label, RAW > 0)
    np.testing.assert_array_equal(found.read_label(found.manifest().case(A))[0], RAW)  # 1 is left, 2 is right


def test_files_of_the_fluid_are_skipped_by_name(tmp_path: Path, write_labels: Callable, write_loni: Callable) -> None:
    write_labels(tmp_path, A)
    write_loni(tmp_path, A)
    (tmp_path / f"ADNI_{A}_MPR__GradWarp_I1.nii").touch()
    (tmp_path / "Labels_100_NIFTI" / f"._ADNI_{A}_74384_L.nii").touch()
    found = dataset(tmp_path).find_cases()
    assert len(found.cases) == 1 and not found.left_out
    assert {Path(name).name: reason.split()[-1] for name, reason in found.skipped.items()} == {
        f"ADNI_{A}_74384_CSF_L.nii": "hippocampus",
        f"ADNI_{A}_74384_CSF_R.nii.gz": "hippocampus",
        f"ADNI_{A}_MPR__GradWarp_I1.nii": "name",
        f"._ADNI_{A}_74384_L.nii": "file",
    }


def test_a_mask_takes_the_skull_off_and_a_stripped_copy_replaces_the_image(
    tmp_path: Path, write_labels: Callable, write_loni: Callable, write_nifti: Callable,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    write_labels(tmp_path, A)
    raw = write_loni(tmp_path, A).relative_to(tmp_path).as_posix()
    check_case(dataset(tmp_path), A)
    assert "1 of 1 images carry their skull" in caplog.text
    caplog.clear()
    brain = np.indices(SIZE).sum(0) > 9
    mask = tmp_path / "brain_masks" / f"ADNI_{A}_brain_mask.nii.gz"
    write_nifti(mask, turned(brain, "LPS").astype(np.uint8), "LPS")
    check_case(dataset(tmp_path), A, image=IMAGE * brain)
    write_nifti(tmp_path / "skull_stripped" / f"{A}_brain.nii.gz", (IMAGE * (brain + 1)).astype(np.int16))
    found = dataset(tmp_path).find_cases()
    assert found.cases[0].mask is None and {raw, mask.relative_to(tmp_path).as_posix()} <= found.skipped.keys()
    check_case(dataset(tmp_path), A, image=IMAGE * (brain + 1))
    assert "skull" not in caplog.text


def test_one_label_a_side_and_one_image_a_subject(
    tmp_path: Path, write_labels: Callable, write_loni: Callable
) -> None:
    ids = [f"00{n}_S_0000" for n in range(7)]
    for id in ids:
        write_labels(tmp_path, id)
        write_loni(tmp_path, id)
    labels, whole = tmp_path / "Labels_100_NIFTI", ids[0]
    twin = write_loni(tmp_path, ids[1], number=99).name
    for path in labels.glob(f"*{ids[2]}*"):
        path.unlink()
    shutil.rmtree(tmp_path / "ADNI" / ids[3])
    (labels / f"ADNI_{ids[4]}_74384_R.nii.gz").unlink()
    shutil.copy(labels / f"ADNI_{whole}_74384_L.nii", labels / f"ADNI_{ids[5]}_1_L.nii")
    for n in (1, 2):
        (tmp_path / "brain_masks").mkdir(exist_ok=True)
        (tmp_path / "brain_masks" / f"{ids[6]}_{n}.nii").touch()
    found = dataset(tmp_path).find_cases()
    assert [case.id for case in found.cases] == [whole]
    reasons = found.left_out
    assert "more than one image" in reasons[ids[1]] and twin in reasons[ids[1]] and "_I1234.nii" in reasons[ids[1]]
    assert "_I1234.nii has no left label" in reasons[ids[2]]
    assert "_74384_L.nii has no image" in reasons[ids[3]]
    assert "has no right label" in reasons[ids[4]]
    assert "more than one left label" in reasons[ids[5]] and f"ADNI_{ids[5]}_1_L.nii" in reasons[ids[5]]
    assert "more than one brain mask" in reasons[ids[6]]


def test_swapped_sides_and_overlapping_ones_are_refused(
    tmp_path: Path, write_labels: Callable, write_loni: Callable
) -> None:
    write_labels(tmp_path, A)
    write_loni(tmp_path, A)
    left, right = (tmp_path / "Labels_100_NIFTI" / f"ADNI_{A}_74384_{s}" for s in ("L.nii", "R.nii.gz"))
    images = nib.load(left), nib.load(right)
    nib.save(images[1], left.with_suffix(".nii.gz"))
    nib.save(images[0], right)
    left.unlink()
    with pytest.raises(UserError, match=r"ADNI_002.*_L.nii.gz: the label of the left side lies to the right"):
        dataset(tmp_path).prepare(A)
    shutil.copy(right, left.with_suffix(".nii.gz"))
    with pytest.raises(UserError, match=r"_L.nii.gz and .*_R.nii.gz overlap in 18 voxel"):
        dataset(tmp_path).prepare(A)
    nib.save(nib.Nifti1Image(IMAGE.astype(np.int16), images[0].affine), right)
    with pytest.raises(UserError, match=r"_R.nii.gz holds 960 different values; expected two"):
        dataset(tmp_path).prepare(A)


def test_labels_whose_headers_are_wrong_can_be_taken_voxel_by_voxel(
    tmp_path: Path, write_labels: Callable, write_loni: Callable
) -> None:
    write_labels(tmp_path, A)
    for path in (tmp_path / "Labels_100_NIFTI").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.array(image.dataobj), np.eye(4)), path)
    write_minc(tmp_path / "100" / f"ADNI_{A}_74384_ACPC.mnc", IMAGE, centred_affine(SIZE, (1, 1, 1), "RAS"))
    with pytest.raises(UserError, match=r"different grids.*dataset.label_grid=image"):
        dataset(tmp_path).prepare(A)
    check_case(dataset(tmp_path, label_grid="image"), A)


@pytest.fixture
def prepared(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    """The layout of the method's public code: four subjects and their lists, one of a subject that is not there."""
    for n in (1, 2, 10, 11):
        folder = tmp_path / "EADC" / f"sub{n}"
        write_nifti(folder / f"sub{n}_img.nii.gz", turned(IMAGE, "LAS").astype(np.int16), "LAS")
        write_nifti(folder / f"sub{n}_mask.nii.gz", turned(RAW > 0, "LAS").astype(np.float32), "LAS")
    for name, text in (("train", "sub1\nsub10\n"), ("valid", "sub2"), ("test", "sub11\r\nsub7\r\n")):
        (tmp_path / "EADC" / f"{name}.txt").write_text(text)
    return tmp_path


@pytest.mark.parametrize("below", [".", "EADC"])
def test_prepared_copies_read_voxel_by_voxel_with_their_lists(prepared: Path, below: str) -> None:
    found = dataset(prepared / below, task="hippocampus")
    manifest = found.manifest()
    assert [case.id for case in manifest.cases] == ["sub1", "sub2", "sub10", "sub11"]
    split = manifest.splits["published"]
    assert (split.train, split.val, split.test) == (("sub1", "sub10"), ("sub2",), ("sub11",))
    assert found.split(scheme="published") == split
    assert list(manifest.excluded) == ["sub7"] and "sub7/sub7_img.nii.gz" in manifest.excluded["sub7"]
    check_case(found, "sub10", "LAS", values=(RAW > 0).astype(np.uint8))
    assert set(np.unique(found.read_label(manifest.case("sub10"))[0])) == {0, 3}


def test_prepared_copies_cannot_tell_left_from_right(prepared: Path) -> None:
    with pytest.raises(UserError, match=r"task=hippocampus_lr: EADC/sub1/sub1_mask.nii.gz does not tell left"):
        dataset(prepared).manifest()


def test_a_known_defect_leaves_its_case_and_its_place_in_the_lists(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defects, "defect_list", lambda: {"eadc_adni": {"sub10": "mirrored", "sub99": "not here"}})
    found = dataset(prepared, task="hippocampus")
    manifest = found.manifest()
    assert "sub10" not in [case.id for case in manifest.cases] and manifest.excluded["sub10"].endswith(": mirrored")
    assert found.split(scheme="published").train == ("sub1",) and "sub99" not in manifest.excluded


def test_both_layouts_in_one_root_are_refused(prepared: Path, write_labels: Callable, write_loni: Callable) -> None:
    write_labels(prepared, A)
    with pytest.raises(UserError, match=r"holds both HarP's own files and prepared copies"):
        dataset(prepared, task="hippocampus").manifest()


def test_a_damaged_minc_file_is_one_line(tmp_path: Path, write_labels: Callable) -> None:
    write_labels(tmp_path, A)
    path = tmp_path / "100" / f"ADNI_{A}_74384_ACPC.mnc"
    write_minc(path, IMAGE, np.eye(4))
    with h5py.File(path, "a") as file:
        del file["minc-2.0/dimensions/xspace"]
    with pytest.raises(UserError, match=r"ACPC.mnc cannot be read as an image"):
        dataset(tmp_path).prepare(A)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"ACPC.mnc cannot be read as an image"):
        dataset(tmp_path).prepare(A)
