"""A prediction lies on its image, however that is stored."""

from __future__ import annotations

import copy
import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import tcurlora_seg
from tcurlora_seg.data.task import Task
from tcurlora_seg.data.volume import open_volume
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.run import Run, load_run, segmenter
from tcurlora_seg.inference.segmenter import describe_labels, label_dtype, label_values

CODES = "RAS"


@pytest.fixture(scope="module")
def loaded(run: Path) -> Run:
    return load_run(run, device="cpu")


@pytest.fixture(scope="module")
def head(cohort: Path) -> nib.Nifti1Image:
    """One simulated head in RAS with whole-number intensities, so that int16 can hold it."""
    path = next(cohort.rglob("S06*skullstripped.hdr"))
    raw = open_volume(path)
    array = np.asanyarray(raw.dataobj)
    while array.ndim > 3:
        array = array[..., 0]
    array = np.round(1000 * array / array.max())
    return nib.Nifti1Image(array[::-1].astype(np.float32), np.diag([6.0, 6.0, 6.0, 1.0]))


@pytest.fixture(scope="module")
def expected(loaded: Run, head: nib.Nifti1Image) -> np.ndarray:
    label = np.asanyarray(loaded.predict(head).dataobj)
    assert len(np.unique(label)) == 3  # a constant map would overlay anything
    return label


def turned(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """The same head with its axes running towards `codes`."""
    start = nib.io_orientation(image.affine)
    change = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes))
    return image.as_reoriented(change)


def oblique(image: nib.Nifti1Image) -> nib.Nifti1Image:
    rotation = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, -0.2, 0.15), [5, -7, 11])
    return nib.Nifti1Image(image.dataobj, rotation @ image.affine)


def trailing(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asanyarray(image.dataobj)[..., None, None], image.affine)


STORED: dict[str, Callable[[nib.Nifti1Image], nib.Nifti1Image]] = {
    "LPS": lambda image: turned(image, "LPS"),
    "PIR": lambda image: turned(image, "PIR"),
    "SLA": lambda image: turned(image, "SLA"),
    "oblique": oblique,
    "oblique LPS": lambda image: turned(oblique(image), "LPS"),
    "int16 with slope": lambda image: image,
    "4-D": trailing,
    "all of it, with slope": lambda image: trailing(turned(oblique(image), "PIL")),
}


def store(image: nib.Nifti1Image, path: Path, *, slope: bool) -> None:
    """Write an image; with `slope` as int16 that 0.5 x - 100 makes the same numbers of."""
    data = image.to_bytes()
    if slope:
        raw = (np.asanyarray(image.dataobj) + 100) * 2
        data = bytearray(nib.Nifti1Image(raw.astype(np.int16), image.affine).to_bytes())
        struct.pack_into("<ff", data, 112, 0.5, -100)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("how", STORED)
def test_the_prediction_overlays_the_image_however_it_is_stored(
    loaded: Run, head: nib.Nifti1Image, expected: np.ndarray, tmp_path: Path, how: str, ending: str
) -> None:
    path = tmp_path / f"head{ending}"
    store(STORED[how](head), path, slope="slope" in how)
    image = nib.load(path)
    assert image.get_data_dtype() == (np.int16 if "slope" in how else np.float32)
    label = loaded.predict(image)
    assert label.shape == image.shape[:3]
    np.testing.assert_array_equal(label.affine, image.affine)
    back = turned(nib.Nifti1Image(np.asanyarray(label.dataobj), label.affine), CODES)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), expected)


def test_another_voxel_size_is_brought_to_the_training_images(loaded: Run, head: nib.Nifti1Image) -> None:
    """Twice as fine along one axis, stored two ways; within the training images' range nothing is resampled."""
    assert loaded.spacing is not None and loaded.spacing.median == pytest.approx((6, 6, 6), abs=0.01)
    fine = nib.Nifti1Image(np.repeat(np.asanyarray(head.dataobj), 2, axis=2), np.diag([6.0, 6.0, 3.0, 1.0]))
    network = segmenter([loaded])
    label = np.asanyarray(loaded.predict(fine).dataobj)
    again = np.asanyarray(turned(loaded.predict(turned(fine, "SPL")), CODES).dataobj)
    resampled = replace(network, preparation=replace(network.preparation, spacing=[6.0, 6.0, 6.0]))
    untouched = replace(network, spacing=None)
    assert label.shape == fine.shape
    np.testing.assert_array_equal(label, again)
    np.testing.assert_array_equal(label, np.asanyarray(resampled.predict(fine).dataobj))
    assert (label != np.asanyarray(untouched.predict(fine).dataobj)).any()
    near = nib.Nifti1Image(head.dataobj, np.diag([6.2, 5.9, 6.0, 1.0]))
    np.testing.assert_array_equal(*(np.asanyarray(n.predict(near).dataobj) for n in (network, untouched)))


@pytest.mark.parametrize("codes", [(1, 0), (0, 2), (1, 4), (0, 0)])
def test_the_header_keeps_codes_units_and_both_forms(
    loaded: Run, head: nib.Nifti1Image, codes: tuple[int, int]
) -> None:
    image = oblique(head)
    image.header["qform_code"], image.header["sform_code"] = codes
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"], image.header["descrip"] = 1000, b"scanner"
    image = nib.Nifti1Image.from_bytes(image.to_bytes())
    label = nib.Nifti1Image.from_bytes(loaded.predict(image).to_bytes())
    np.testing.assert_array_equal(label.affine, image.affine)
    for field in ("qform_code", "sform_code", "srow_x", "quatern_b", "qoffset_x", "xyzt_units"):
        np.testing.assert_array_equal(label.header[field], image.header[field], err_msg=field)
    assert label.get_data_dtype() == np.uint8
    assert label.dataobj.slope == 1 and label.dataobj.inter == 0
    assert label.header["cal_max"] == 0 and label.header["descrip"] == b""


@pytest.mark.parametrize("kind", [nib.Nifti2Image, nib.AnalyzeImage, nib.Nifti1Pair])
def test_other_formats_come_back_as_nifti_on_the_same_grid(loaded: Run, head: nib.Nifti1Image, kind: type) -> None:
    image = kind(np.asanyarray(head.dataobj).astype(np.int16), head.affine)
    label = loaded.predict(image)
    assert type(label) is (nib.Nifti2Image if kind is nib.Nifti2Image else nib.Nifti1Image)
    assert label.shape == image.shape
    if kind is not nib.AnalyzeImage:
        np.testing.assert_array_equal(label.affine, image.affine)
    else:
        assert nib.aff2axcodes(label.affine) == ("L", "A", "S")


def test_several_runs_are_averaged_and_one_run_twice_changes_nothing(
    trained: list[Path], loaded: Run, head: nib.Nifti1Image, expected: np.ndarray
) -> None:
    other = load_run(trained[1], device="cpu")
    for runs in ([loaded, loaded], trained[0], str(trained[0])):
        same = tcurlora_seg.predict(runs, head)
        np.testing.assert_array_equal(np.asanyarray(same.dataobj), expected)
    with pytest.raises(UserError, match="no run is given"):
        tcurlora_seg.predict([], head)
    probabilities = [
        np.asanyarray(segmenter(runs).run(head, probabilities=True).probabilities.dataobj)
        for runs in ([loaded], [other], [loaded, other])
    ]
    np.testing.assert_allclose(probabilities[2], (probabilities[0] + probabilities[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(probabilities[2].sum(-1), 1, atol=1e-5)
    mean = np.asanyarray(tcurlora_seg.predict([loaded, other], head).dataobj)
    np.testing.assert_array_equal(mean, np.array([0, 165, 166])[probabilities[2].argmax(-1)])


def test_classes_of_an_ensemble_are_matched_by_structure_and_value(loaded: Run, head: nib.Nifti1Image) -> None:
    """The same network, whose outputs another run lists the other way round."""
    task = loaded.dataset.task
    swapped = copy.copy(loaded.dataset)
    swapped.task = replace(task, classes={1: (166,), 2: (165,)},
                           structures={"right_hippocampus": (1,), "left_hippocampus": (2,)})  # fmt: skip
    network = copy.deepcopy(loaded.network)
    with torch.no_grad():
        for name in ("out.conv.conv.weight", "out.conv.conv.bias"):
            parameter = network.get_parameter(name)
            parameter.copy_(parameter[[0, 2, 1]])
    other = replace(loaded, dataset=swapped, network=network)
    alone, both = (np.asanyarray(segmenter(runs).predict(head).dataobj) for runs in ([loaded], [loaded, other]))
    assert np.mean(alone == both) > 0.9999
    meant = copy.copy(loaded.dataset)
    meant.task = replace(task, structures={"left_hippocampus": (2,), "right_hippocampus": (1,)})
    with pytest.raises(UserError, match=r"they differ in the label values of their structures"):
        segmenter([loaded, replace(loaded, dataset=meant)])


def test_runs_of_other_voxel_sizes_are_not_averaged(loaded: Run) -> None:
    assert loaded.spacing is not None
    coarse = replace(loaded, spacing=replace(loaded.spacing, median=(12.0, 6.0, 6.0)))
    with pytest.raises(UserError, match=r"cannot be averaged with .*: trained on 12 x 6 x 6 and 6 x 6 x 6 mm"):
        segmenter([loaded, coarse])


def test_a_header_in_microns_gives_a_label_map_in_microns(loaded: Run, head: nib.Nifti1Image) -> None:
    small = nib.Nifti1Image(head.dataobj, np.diag([6000.0, 6000.0, 6000.0, 1.0]))
    small.header.set_xyzt_units("micron")
    label = loaded.predict(small)
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), np.asanyarray(loaded.predict(head).dataobj))
    np.testing.assert_array_equal(label.affine, small.affine)
    assert label.header.get_xyzt_units()[0] == "micron"


def test_what_is_unlike_the_training_images_is_said_or_refused(loaded: Run, head: nib.Nifti1Image) -> None:
    network = segmenter([loaded])
    assert not [line for line in network.run(head).unusual if line.startswith("it shows")]
    wide = np.pad(np.asanyarray(head.dataobj), 20, mode="edge") + 50
    unstripped = nib.Nifti1Image(wide, head.affine)
    found = network.run(unstripped).unusual
    assert found[0].startswith("it is ") and any("is a skull left in" in line for line in found)
    with pytest.raises(UserError, match=r"head.nii: it is .* mm long left-right.*\(strict=true\)"):
        network.run(unstripped, "head.nii", strict=True)


def test_label_maps_hold_the_data_sets_own_values_where_each_class_has_one() -> None:
    merged = Task("merged", {1: (165, 166), 2: (3,)}, {"a": (1,), "b": (2,)})
    single = Task("single", {1: (1,), 2: (2,), 3: (400,)}, {"whole": (1, 2, 3), "enhancing": (3,)})
    assert label_values(merged) == {1: 1, 2: 2}
    assert label_values(single) == {1: 1, 2: 2, 3: 400}
    assert (label_dtype(label_values(merged)), label_dtype(label_values(single))) == (np.uint8, np.uint16)
    assert label_dtype({1: 2**16}) is label_dtype({1: 312782546}) is np.int32
    assert describe_labels(single)["structures"] == {"whole": [1, 2, 400], "enhancing": [400]}
    assert describe_labels(merged)["values"]["1"] == {"class": 1, "labels_of_the_data_set": [165, 166]}
