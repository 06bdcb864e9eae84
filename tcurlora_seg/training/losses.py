"""A loss for many structures of very different size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class WeightedDiceCE(nn.Module):
    """Weighted cross-entropy plus soft Dice over the classes that the batch holds:

        L = − Σ_v w(y_v) log p_v(y_v) / Σ_v w(y_v)  +  1 − mean_c 2 Σ_v p_v(c) [y_v = c] / Σ_v (p_v(c) + [y_v = c])

    Weights of about 1 / √frequency let a network that starts at random see small structures at all; but they also make
    it find too much of them. So they fade: w(c) to the power of `strength`, which training lowers from 1 to 0.

    Args:
        weights: one a class, background first.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(list(weights)), persistent=False)
        self.strength = 1.0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of (B, K, X, Y, Z) logits for (B, 1, X, Y, Z) class indices."""
        logarithms = torch.log_softmax(logits, dim=1)
        classes = target.long()
        found = logarithms.gather(1, classes)
        flat = classes.flatten()
        weights = (self.get_buffer("weights") ** self.strength)[flat]
        entropy = -(weights * found.flatten()).sum() / weights.sum()
        right = torch.zeros_like(self.get_buffer("weights")).index_add(0, flat, found.exp().flatten())
        there = torch.bincount(flat, minlength=len(right)).to(right)
        dice = 2 * right / (logarithms.exp().sum(dim=(0, 2, 3, 4)) + there).clamp(min=1e-5)
        return entropy + 1 - dice[there > 0].mean()
