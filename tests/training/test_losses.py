from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor
from torch.nn.functional import cross_entropy

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.training.losses import WeightedDiceCE, balanced_weights, over_labelled


def case(*shape: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, classes, *shape, generator=g), torch.randint(0, classes, (2, 1, *shape), generator=g)


def test_the_loss_is_weighted_cross_entropy_plus_dice_summed_over_the_batch() -> None:
    logits, target = case(4, 5, 6)
    weights = [1.0, 3.0, 8.0]
    entropy = cross_entropy(logits, target[:, 0], weight=torch.tensor(weights))
    dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=0.0, smooth_dr=0.0)(logits, target)
    torch.testing.assert_close(WeightedDiceCE(weights)(logits, target), entropy + dice)


def test_the_weights_fade_with_the_strength() -> None:
    logits, target = case(4, 4, 4)
    loss, plain = WeightedDiceCE([1.0, 3.0, 8.0]), WeightedDiceCE([1.0, 1.0, 1.0])
    assert float(loss(logits, target)) != pytest.approx(float(plain(logits, target)), abs=1e-4)
    loss.strength = 0.0
    torch.testing.assert_close(loss(logits, target), plain(logits, target))


def test_a_class_that_the_batch_lacks_counts_neither_way() -> None:
    logits, target = case(4, 4, 4)
    target = target.clamp(max=1)
    logits[:, 2] = -30.0
    two = WeightedDiceCE([1.0, 2.0])(logits[:, :2], target)
    torch.testing.assert_close(WeightedDiceCE([1.0, 2.0, 9.0])(logits, target), two)


def test_ignored_voxels_do_not_count_and_nothing_but_them_is_no_loss() -> None:
    logits, target = case(4, 4, 4)
    target[:, :, :2] = IGNORED
    half = WeightedDiceCE([1.0, 3.0, 8.0])(logits[:, :, 2:], target[:, :, 2:])
    torch.testing.assert_close(WeightedDiceCE([1.0, 3.0, 8.0])(logits, target), half)
    assert float(WeightedDiceCE([1.0, 3.0, 8.0])(logits, torch.full_like(target, IGNORED))) == 0


def test_balanced_weights_are_one_over_the_root_of_the_share_of_a_crop() -> None:
    # two cases, crops of 1000 voxels: 40 and 60 of one class are 5 % of a crop, 10 of the other 1 %
    weights = balanced_weights([[960, 40, 10], [900, 60, 10]], (10, 10, 10))
    assert weights == pytest.approx([1, (0.94 / 0.05) ** 0.5, (0.94 / 0.01) ** 0.5], abs=1e-3)


def test_balanced_weights_are_bounded_and_a_structure_larger_than_the_crop_fills_it() -> None:
    assert balanced_weights([[10**7, 10**6, 1]], (10, 10, 10)) == [1.0, pytest.approx(0.05**0.5, abs=1e-3), 7.071]
    assert balanced_weights([[10**7, 1, 0]], (100, 100, 100)) == [1.0, 20.0, 1.0]


MONAI = [DiceCELoss(softmax=True, to_onehot_y=True), DiceLoss(softmax=True, to_onehot_y=True)]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, 4, generator=g, dtype=torch.float64)
    return logits, torch.randint(0, 3, (2, 1, 6, 5, 4), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("loss", MONAI)
def test_with_nothing_to_ignore_it_is_the_loss(loss: torch.nn.Module) -> None:
    torch.testing.assert_close(over_labelled(loss, *batch()), loss(*batch()))


@pytest.mark.parametrize("loss", MONAI)
def test_ignored_voxels_are_as_if_they_were_not_there(loss: torch.nn.Module) -> None:
    logits, label = batch()
    label[:, :, 3:] = IGNORED
    torch.testing.assert_close(over_labelled(loss, logits, label), loss(logits[:, :, :3], label[:, :, :3]))


def test_ignored_voxels_have_no_gradient_and_a_batch_of_nothing_else_is_finite() -> None:
    logits, label = batch()
    label[:, :, 3:] = IGNORED
    over_labelled(MONAI[0], logits.requires_grad_(), label).backward()
    assert logits.grad is not None and not logits.grad[:, :, 3:].any() and logits.grad[:, :, :3].all()
    label[:] = IGNORED
    assert over_labelled(MONAI[0], logits, label) == 0
