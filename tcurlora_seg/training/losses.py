"""Losses over the labelled voxels, and class weights for structures of very different size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.evaluation.processes import several


class WeightedDiceCE(nn.Module):
    """Weighted cross-entropy plus soft Dice over the classes in the batch:

        L = − Σ_v w(y_v) log p_v(y_v) / Σ_v w(y_v)  +  1 − mean_c 2 Σ_v p_v(c) [y_v = c] / Σ_v (p_v(c) + [y_v = c])

    With weights of about 1 / √frequency a random network learns small structures at all, but finds too much of them.
    So the weights fade: w(c) to the power of `strength`, which training lowers from 1, by default to 0.

    Args:
        weights: one a class, background first.

    Attributes:
        strength: power of the weights.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(list(weights)), persistent=False)
        self.strength = 1.0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss.

        Args:
            logits: (B, K, X, Y, Z).
            target: (B, 1, X, Y, Z) class indices; `IGNORED` voxels do not count.
        """
        logarithms = torch.log_softmax(logits, dim=1)
        kept = (target != IGNORED).to(logits)
        classes = target.long().where(kept > 0, 0)
        found, flat = logarithms.gather(1, classes), classes.flatten()
        weights = (self.get_buffer("weights").to(logits) ** self.strength)[flat] * kept.flatten()
        zeros = logits.new_zeros(logits.shape[1])
        right = zeros.index_add(0, flat, (found.exp() * kept).flatten())
        there = zeros.index_add(0, flat, kept.flatten())
        entropy = torch.stack([(weights * found.flatten()).sum(), weights.sum()])
        sums = _over_devices(torch.cat([entropy, right, there, (logarithms.exp() * kept).sum(dim=(0, 2, 3, 4))]))
        right, there, all_found = sums[2:].chunk(3)
        missed = 1 - 2 * right / (all_found + there).clamp(min=1e-5)
        seen = there > 0
        return (missed * seen).sum() / seen.sum().clamp(min=1) - sums[0] / sums[1].clamp(min=1e-5)


def _over_devices(sums: Tensor) -> Tensor:
    """Sums over all devices, so that each has the loss of the whole batch."""
    return all_reduce(sums) if several() else sums


def over_labelled(criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, label: Tensor) -> Tensor:
    """Mean loss of the images of a batch without their voxels of the label `IGNORED`.

    Args:
        criterion: a loss of logits (1, K, n) and labels (1, 1, n) without neighbourhoods, as MONAI's Dice and
            cross-entropy.
        logits: (B, K, X, Y, Z).
        label: (B, 1, X, Y, Z) class indices.
    """
    losses = []
    for own, reference in zip(logits, label, strict=True):
        kept = reference[0] != IGNORED
        if kept.any():
            losses.append(criterion(own[:, kept][None], reference[:, kept][None]))
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def balanced_weights(voxels: Sequence[Sequence[int]], crop: Sequence[int], *, bound: float = 20.0) -> list[float]:
    """Class weights √(f(0) / f(c)), background first. f(c) is the share of class c in a crop, over the cases.

    Args:
        voxels: counts of every class in every training case, background first; that of the background is not used.
        crop: size of the training crops; a crop with a structure is taken to hold as much of it as fits.
        bound: weights lie between 1 / bound and bound.
    """
    size = math.prod(crop)
    shares = [sum(min(counts[c], size) for counts in voxels) / (size * len(voxels)) for c in range(1, len(voxels[0]))]
    background = max(1 - sum(shares), 0.05)
    weights = [math.sqrt(background / share) if share else 1.0 for share in shares]
    return [1.0, *(round(min(max(weight, 1 / bound), bound), 3) for weight in weights)]
