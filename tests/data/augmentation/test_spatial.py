"""Rotation, scaling and elastic deformation as one resampling."""

from __future__ import annotations

import math

import torch

from tcurlora_seg.data.augmentation.spatial import affine, displacement, resample, sampling_points
from tcurlora_seg.randomness import generator

SIZE = (12, 14, 10)


def volume() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.arange(1.0, 1 + math.prod(SIZE)).reshape(1, *SIZE)
    return image, (image % 5).to(torch.uint8)


def test_without_rotation_and_scaling_the_matrix_is_the_identity() -> None:
    torch.testing.assert_close(affine(0.0, 0.0, (1, 2, 3), generator(0)), torch.eye(3, dtype=torch.float64))


def test_a_rotation_keeps_lengths_in_mm_whatever_the_voxels_are() -> None:
    spacing = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    for seed in range(10):
        matrix = affine(30.0, 0.0, spacing.tolist(), generator(seed))
        in_mm = spacing[:, None] * matrix / spacing
        torch.testing.assert_close(in_mm @ in_mm.T, torch.eye(3, dtype=torch.float64))
        assert not torch.allclose(matrix, torch.eye(3, dtype=torch.float64), atol=0.01)


def test_scaling_stays_within_its_factors_and_reaches_near_both() -> None:
    factors = torch.stack([affine(0.0, 0.25, (1, 1, 2), generator(seed)).diagonal() for seed in range(200)])
    assert 0.8 <= factors.min() < 0.81 and 1.24 < factors.max() <= 1.25


def test_the_identity_resamples_to_the_same_voxels_and_zeros_outside() -> None:
    image, label = volume()
    still = torch.eye(3, dtype=torch.float64)
    found, classes = resample(image, label, sampling_points(SIZE, (0, 0, 0), (0, 0, 0), still))
    torch.testing.assert_close(found, image, rtol=1e-5, atol=1e-3)
    assert torch.equal(classes, label) and classes.dtype == torch.uint8
    moved, classes = resample(image, label, sampling_points((6, 6, 6), (0, 0, 0), (-2, 3, 7), still))
    torch.testing.assert_close(moved[:, 2:, :, :3], image[:, :4, 3:9, 7:], rtol=1e-5, atol=1e-3)
    assert torch.equal(classes[:, 2:, :, :3], label[:, :4, 3:9, 7:])
    assert not moved[:, :2].any() and not moved[..., 3:].any() and not classes[:, :2].any()


def test_a_crop_wholly_outside_the_volume_is_empty() -> None:
    points = sampling_points((4, 4, 4), (0, 0, 0), (50, -50, 3), torch.eye(3, dtype=torch.float64))
    assert not any(x.any() for x in resample(*volume(), points))


def test_a_quarter_turn_permutes_the_voxels() -> None:
    turn = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    image = torch.rand(1, 7, 7, 7, generator=torch.Generator().manual_seed(0))
    label = (image > 0.5).to(torch.uint8)
    found, classes = resample(image, label, sampling_points((7, 7, 7), (3, 3, 3), (3, 3, 3), turn))
    torch.testing.assert_close(found, image.rot90(-1, (1, 2)), rtol=1e-5, atol=1e-5)
    assert torch.equal(classes, label.rot90(-1, (1, 2)))


def test_a_displacement_is_smooth_and_has_its_deviation_in_mm() -> None:
    spacing = (1.0, 1.0, 2.0)
    fields = torch.stack([displacement((48, 48, 24), 1.5, spacing, generator(seed)) for seed in range(40)])
    in_mm = fields * torch.tensor(spacing).reshape(3, 1, 1, 1)
    torch.testing.assert_close(in_mm.std(dim=(0, 2, 3, 4)), torch.full((3,), 1.5), rtol=0.15, atol=0)
    assert float(in_mm.diff(dim=2).abs().max()) < 0.7  # of a voxel of 1 mm: nothing folds
