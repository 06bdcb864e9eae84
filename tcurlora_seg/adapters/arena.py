"""ARENA: low-rank updates whose ranks are pruned by an l1 penalty during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.lora import LoRA
from tcurlora_seg.adapters.stacks import Stack
from tcurlora_seg.errors import UserError


class ARENA(LoRA):
    """Adaptive rank by an l1 penalty on singular values: delta = (alpha / r) B diag(E) A.

    A (r, in) starts Kaiming-uniform within 1 / sqrt(in), B (out, r) at zero, E (r) at one. The penalty
    sparsity * |E|_1 is not added to the loss but taken as a proximal step after the optimiser's,

        E <- sign(E) max(|E| - lr sparsity, 0),

    which gives exact zeros. A rank that reached zero stays out. It trains r (out + in + 1) numbers per matrix.

    This follows the paper's text; its code was not available. The default of `sparsity` is ours. Adam moves E by
    about lr a step where the loss pulls at a rank, and the proximal step takes back half of that; from 1 on no rank
    would stay. Over two thousand steps, with a rate that decays from 2e-3 to zero, a useless rank falls from 1 to 0.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: r at the start.
        alpha: the scale times r; None for r.
        sparsity: weight of the penalty.
        generator: for the start of A.

    Raises:
        UserError: a rank that the slices cannot have, a negative sparsity.

    Source: Baklouti et al., ARENA, MICCAI 2025, arXiv 2507.15793.
    """

    alive: Tensor

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int,
        alpha: float | None = None,
        sparsity: float = 0.5,
        generator: torch.Generator,
    ) -> None:
        super().__init__(stack, weights, rank=rank, alpha=alpha, generator=generator)
        if sparsity < 0:
            raise UserError(f"sparsity={sparsity} must be at least 0")
        self.sparsity = sparsity
        self.E = nn.ParameterList(weights.new_ones(rank) for _ in weights)
        self.register_buffer("alive", torch.ones(len(weights), rank, dtype=torch.bool, device=weights.device))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """(alpha / r) B diag(E) A over the remaining ranks."""
        return self.scale * (self.B[index] * (self.E[index] * self.alive[index])) @ self.A[index]

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """A, E and B one after another."""
        gains = [self.scale * self.E[i] * self.alive[i] for i in indices]
        return [F.linear(F.linear(x, self.A[i]) * gain, self.B[i]) for i, gain in zip(indices, gains, strict=True)]

    @classmethod
    @torch.no_grad()
    def after_step(cls, adapters: Sequence[Self], step: int, total: int, lr: float) -> None:
        """Proximal step (soft thresholding); a rank that reaches zero is pruned."""
        for adapter in adapters:
            for values, alive in zip(adapter.E, adapter.alive, strict=True):
                values.copy_(F.softshrink(values, lr * adapter.sparsity))
                alive &= values != 0
                values *= alive

    def ranks(self) -> list[int]:
        """Number of remaining ranks of each slice."""
        return [int(alive.sum()) for alive in self.alive]
