"""LoTR: low tensor rank updates, with shared outer factors and one small core per slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, scale_of
from tcurlora_seg.adapters.stacks import Stack, check_rank


class LoTR(Adapter):
    """Low tensor rank adaptation: delta_s = (alpha / r) A G_s B.

    A (out, r) and B (r, in) are shared by all slices of the stack and start from N(0, 1); the cores G_s (r, r) start
    at zero. It trains r (out + in) + n r^2 numbers per stack of n slices.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: r.
        alpha: the scale times r; None for r.
        generator: for the start of A and B.

    Raises:
        UserError: a rank that the slices cannot have.

    Source: Bershatsky et al., LoTR: low tensor rank weight adaptation, 2024, arXiv 2402.01376.
    """

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int,
        alpha: float | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_rank(rank, stack.shape, stack.roles)
        slices, out, inner = weights.shape
        self.scale = scale_of(alpha, rank)
        self.A = nn.Parameter(torch.randn(out, rank, generator=generator).to(weights))
        self.B = nn.Parameter(torch.randn(rank, inner, generator=generator).to(weights))
        self.cores = nn.ParameterList(weights.new_zeros(rank, rank) for _ in range(slices))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """(alpha / r) A G B."""
        return self.scale * (self.A @ self.cores[index] @ self.B)

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """B once for all slices with the input x, then the cores, then A."""
        z = F.linear(x, self.B)
        return [F.linear(F.linear(z, self.scale * self.cores[i]), self.A) for i in indices]
