from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss

from tcurlora_seg.training.losses import WeightedDiceCE

WEIGHTS = [0.25, 2.0, 8.0]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, 8, generator=g, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(0, 3, (2, 1, 6, 7, 8), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_it_is_torchs_weighted_cross_entropy_plus_monais_dice(
    batch: tuple[torch.Tensor, torch.Tensor], strength: float
) -> None:
    logits, target = batch
    ours = WeightedDiceCE(WEIGHTS).double()
    ours.strength = strength
    weights = torch.tensor(WEIGHTS, dtype=torch.float64) ** strength
    entropy = torch.nn.functional.cross_entropy(logits, target[:, 0].long(), weight=weights)
    dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0)(logits, target)
    loss = ours(logits, target)
    torch.testing.assert_close(loss, entropy + dice)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (loss, entropy + dice)))


def test_a_class_that_the_batch_lacks_has_no_part_in_the_dice(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = batch
    target = target.clamp(max=1)
    ours = WeightedDiceCE([1.0, 1.0, 1.0]).double()
    entropy = torch.nn.functional.cross_entropy(logits, target[:, 0].long())
    overlap = [2 * (p * t).sum() / (p + t).sum()
               for p, t in ((logits.softmax(1)[:, c], (target[:, 0] == c).double()) for c in (0, 1))]  # fmt: skip
    torch.testing.assert_close(ours(logits, target), entropy + 1 - sum(overlap) / 2)
