from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import Volume, prepare_image
from tcurlora_seg.errors import UserError


def scan(
    axes: str = "RAS", size: tuple[int, ...] = (10, 12, 14), spacing: float = 1.0
) -> tuple[MetaTensor, MetaTensor]:
    """A head-like image, 0 outside a box, and a label inside; stored with its axes running towards `axes`."""
    g = torch.Generator().manual_seed(0)
    image, label = torch.zeros(2, *size), torch.zeros(1, *size, dtype=torch.uint8)
    image[:, 2:8, 3:11, 4:12] = 50 + 10 * torch.rand(2, 6, 8, 8, generator=g)
    label[:, 3:6, 4:8, 5:9] = 1
    affine = torch.from_numpy(centred_affine(size, (spacing,) * 3, axes))
    return MetaTensor(image, affine=affine), MetaTensor(label, affine=affine)


def test_z_scores_are_over_the_brain_and_the_background_stays_0() -> None:
    image, label = scan()
    image[0] *= 7
    result, _ = Preparation(crop_to_brain=False)(image, label)
    for before, after in zip(image.as_tensor(), result.as_tensor(), strict=True):
        inside = before > 0
        assert not after[~inside].any()
        torch.testing.assert_close(after[inside].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(after[inside].std(correction=0), torch.tensor(1.0))


def test_cropping_keeps_exactly_the_brain() -> None:
    image, label = scan()
    prepared, reference = Preparation()(image, label)
    assert prepared.shape == (2, 6, 8, 8) and reference.shape == (1, 6, 8, 8)
    assert reference.dtype == torch.uint8 and int(reference.sum()) == int(label.sum())


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "PIR", "SLA"])
def test_prepared_axes_are_ras_whatever_the_file_has(axes: str) -> None:
    image, label = scan(axes)
    prepared, reference = Preparation()(image, label)
    np.testing.assert_allclose(prepared.affine[:3, :3], np.eye(3), atol=1e-9)
    voxel = torch.nonzero(reference.as_tensor()[0])[0].double()
    there = reference.affine @ torch.cat([voxel, torch.ones(1)])
    native = torch.nonzero(label.as_tensor()[0]).double()
    world = native @ label.affine[:3, :3].T + label.affine[:3, 3]
    assert float((world - there[:3]).norm(dim=1).min()) < 1e-9  # a labelled point of the body stays where it was


@pytest.mark.parametrize(("axes", "crop"), itertools.product(["RAS", "LPS", "PIR"], [True, False]))
def test_inverting_restores_every_voxel_of_the_native_grid(axes: str, crop: bool) -> None:
    image, label = scan(axes)
    preparation = Preparation(crop_to_brain=crop)
    prepared, reference = preparation(image, label)
    for _ in range(2):  # inverting leaves the image's memory alone
        native = preparation.invert(reference.as_tensor(), prepared, nearest=True)
        assert torch.equal(native.to(torch.uint8), label.as_tensor())


def test_another_process_can_invert() -> None:
    image, label = scan("LPS")
    prepared, reference = Preparation()(image, label)
    native = Preparation().invert(reference.as_tensor(), prepared, nearest=True)
    assert torch.equal(native.to(torch.uint8), label.as_tensor())


def test_resampling_is_inverted_to_the_native_grid() -> None:
    image, label = scan("LPS", spacing=2.0)
    preparation = Preparation(spacing=[1.0, 1.0, 1.0])
    prepared, reference = preparation(image, label)
    assert prepared.shape[1:] == (11, 15, 15)  # 1 mm apart over the centres of 6 x 8 x 8 voxels
    native = preparation.invert(reference.as_tensor(), prepared, nearest=True)
    assert native.shape == label.shape
    assert torch.equal(native.to(torch.uint8), label.as_tensor())
    probabilities = preparation.invert(reference.as_tensor().float(), prepared, nearest=False)
    assert float(probabilities.min()) >= 0 and float(probabilities.max()) <= 1.0001
    assert len(torch.unique(probabilities)) > 2


def test_a_window_and_percentiles_scale_to_0_1() -> None:
    image, _ = scan()
    window = Preparation(crop_to_brain=False, intensity="window", limits=[50.0, 55.0])
    result = window(image)[0].as_tensor()
    torch.testing.assert_close(result, ((image.as_tensor() - 50) / 5).clamp(0, 1))
    percentiles = Preparation(crop_to_brain=False, intensity="percentiles", limits=[5.0, 95.0])
    result = percentiles(image)[0].as_tensor()
    for before, after in zip(image.as_tensor(), result, strict=True):
        inside = before > 0
        assert 0.04 < float((after[inside] == 0).float().mean()) < 0.06
        assert 0.04 < float((after[inside] == 1).float().mean()) < 0.06


@pytest.mark.parametrize("outside", [0.0, -2.5])
def test_a_z_scored_image_is_prepared_as_it_was_before(outside: float) -> None:
    image, _ = scan()
    scored = image.clone()
    for before, after in zip(image.as_tensor(), scored.as_tensor(), strict=True):
        inside = before > 0
        after[:] = torch.where(inside, (before - before[inside].mean()) / before[inside].std(), outside)
    expected, found = (Preparation()(x)[0].as_tensor() for x in (image, scored))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def _with_nan(image: MetaTensor) -> None:
    image[0, 0, 0, 0] = float("nan")


def _empty(image: MetaTensor) -> None:
    image.zero_()


def _one_channel_empty(image: MetaTensor) -> None:
    image[1] = 0


@pytest.mark.parametrize(
    ("harm", "words"), [(_with_nan, "NaN"), (_empty, "no two different"), (_one_channel_empty, "no two different")]
)
def test_an_image_that_cannot_be_used_is_named(harm: object, words: str) -> None:
    image, _ = scan()
    harm(image)
    affine = image.affine.numpy()
    names = ("a.nii", "b.nii")
    channels = [Volume(n, v.numpy(), affine) for n, v in zip(names, image.as_tensor(), strict=True)]
    with pytest.raises(UserError, match=rf"[ab].nii.*{words}"):
        prepare_image(channels, preparation=Preparation(), spacing=None, case="a")


@pytest.mark.parametrize(
    "changes",
    [
        {"intensity": "window"},
        {"limits": [0.0, 1.0]},
        {"intensity": "percentiles", "limits": [1.0]},
        {"intensity": "percentiles", "limits": [0.5, 101.0]},
        {"intensity": "window", "limits": [240.0, -160.0]},
        {"intensity": "minmax", "limits": [0.0, 1.0]},
        {"spacing": [1.0, 0.0, 1.0]},
        {"background": "black"},
    ],
)
def test_arguments_that_do_not_fit_are_one_line(changes: dict) -> None:
    with pytest.raises(UserError, match=r"preparation"):
        Preparation(**changes)
