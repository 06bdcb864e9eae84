"""LoRA: each weight's update is a product of two thin matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, scale_of
from tcurlora_seg.adapters.stacks import Stack, check_rank
from tcurlora_seg.errors import UserError


class LoRA(Adapter):
    """Low-rank adaptation: delta = (alpha / r) B A with A (r, in) and B (out, r).

    A starts Kaiming-uniform with a = sqrt 5, that is uniform within 1 / sqrt(in), and B at zero. It trains
    r (out + in) numbers per matrix; on the fused qkv matrix one A serves q, k and v.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: r.
        alpha: the scale times r; None for r.
        dropout: share of the adapter's inputs dropped while training.
        generator: for the start of A.

    Raises:
        UserError: a rank that the slices cannot have, an alpha of 0 or below, a dropout outside [0, 1).

    Source: Hu et al., LoRA, 2021, arXiv 2106.09685.
    """

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_rank(rank, stack.shape, stack.roles)
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout} must be at least 0 and below 1")
        slices, out, inner = weights.shape
        self.scale = scale_of(alpha, rank)
        self.dropout = nn.Dropout(dropout)
        bound = 1 / math.sqrt(inner)
        starts = torch.empty(slices, rank, inner).uniform_(-bound, bound, generator=generator).to(weights)
        # a list, since each use of one slice of a whole tensor costs a gradient of the whole tensor
        self.A = nn.ParameterList(start.clone() for start in starts)
        self.B = nn.ParameterList(weights.new_zeros(out, rank) for _ in range(slices))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """(alpha / r) B A."""
        return self.scale * (self.B[index] @ self.A[index])

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """A, then B, on the input after dropout."""
        x = self.dropout(x)
        return [F.linear(self.scale * F.linear(x, self.A[i]), self.B[i]) for i in indices]
