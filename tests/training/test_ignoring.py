from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.training.ignoring import over_labelled

LOSSES = [DiceCELoss(softmax=True, to_onehot_y=True), DiceLoss(softmax=True, to_onehot_y=True)]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, 4, generator=g, dtype=torch.float64)
    return logits, torch.randint(0, 3, (2, 1, 6, 5, 4), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("loss", LOSSES)
def test_with_nothing_to_ignore_it_is_the_loss(loss: torch.nn.Module) -> None:
    torch.testing.assert_close(over_labelled(loss, *batch()), loss(*batch()))


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_voxels_are_as_if_they_were_not_there(loss: torch.nn.Module) -> None:
    logits, label = batch()
    label[:, :, 3:] = IGNORED
    torch.testing.assert_close(over_labelled(loss, logits, label), loss(logits[:, :, :3], label[:, :, :3]))


def test_ignored_voxels_have_no_gradient_and_a_batch_of_nothing_else_is_finite() -> None:
    logits, label = batch()
    label[:, :, 3:] = IGNORED
    over_labelled(LOSSES[0], logits.requires_grad_(), label).backward()
    assert logits.grad is not None and not logits.grad[:, :, 3:].any() and logits.grad[:, :, :3].all()
    label[:] = IGNORED
    assert over_labelled(LOSSES[0], logits, label) == 0
