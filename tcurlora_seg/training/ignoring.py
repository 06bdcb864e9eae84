"""Losses over the voxels that somebody has labelled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tcurlora_seg.data.task import IGNORED


def over_labelled(criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, label: Tensor) -> Tensor:
    """The mean over a batch of the loss of each image, as if its voxels with the label `IGNORED` were not there.

    Args:
        criterion: a loss of logits (1, K, n) and labels (1, 1, n) that asks for no neighbourhood, as MONAI's Dice and
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
