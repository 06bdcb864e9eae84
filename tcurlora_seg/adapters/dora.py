"""DoRA: low-rank updates of the rows' directions, with separately trained magnitudes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import no_autocast
from tcurlora_seg.adapters.lora import LoRA
from tcurlora_seg.adapters.stacks import Stack


class DoRA(LoRA):
    """Weight-decomposed low-rank adaptation: W' = m (W + s B A) / ||W + s B A||, row by row, s = alpha / r.

        delta = W' - W

    The magnitudes m (out) start at the rows' norms, A and B as LoRA's. As in the paper the norm in the denominator is
    detached from the gradient. It trains LoRA's r (out + in) numbers and out more per matrix.

    The surprise: the update is not low-rank, and it does not scale with s.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: r.
        alpha: s times r; None for r.
        generator: for the start of A.

    Raises:
        UserError: a rank that the slices cannot have.

    Source: Liu et al., DoRA: weight-decomposed low-rank adaptation, 2024, arXiv 2402.09353.
    """

    norms: Tensor

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int,
        alpha: float | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__(stack, weights, rank=rank, alpha=alpha, generator=generator)
        self.register_buffer("norms", None, persistent=False)
        self.gather(weights)
        self.magnitude = nn.ParameterList(norm.clone() for norm in self.norms)

    def gather(self, weights: Tensor) -> None:
        """Recompute the norms (slices, out) of the frozen rows."""
        self.norms = torch.stack([_row_norms(weight) for weight in weights])

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """m (W + s B A) / ||W + s B A|| - W."""
        turned = weight + super().delta(index, weight)
        # the quotient first: it is exactly one at the start
        return (self.magnitude[index] / _row_norms(turned.detach()))[:, None] * turned - weight

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """(g - 1) y + g s B A x with g = m / ||W + s B A||."""
        turns = super().updates(indices, x, ys, weights)
        gains = [self.magnitude[i] / self._turned_norms(i, w) for i, w in zip(indices, weights, strict=True)]
        return [(g - 1) * y + g * turn for g, y, turn in zip(gains, ys, turns, strict=True)]

    @torch.no_grad()
    def _turned_norms(self, index: int, weight: Tensor) -> Tensor:
        """||W + s B A|| of every row (out,), without an (out, in) matrix.

        ||w + s b A||^2 = ||w||^2 + 2 s (w A' + s/2 b A A') . b for the row w of W and b of B.
        """
        A, B, norms = self.A[index], self.B[index], self.norms[index]
        with no_autocast(weight):
            cross = F.linear(weight, A) + self.scale / 2 * (B @ (A @ A.mT))
            growth = 2 * self.scale * (cross * B).sum(1) / norms.square()
        return norms * (1 + growth).clamp_min(0).sqrt()


def _row_norms(weight: Tensor) -> Tensor:
    """The norms of the rows (out,), away from zero."""
    return torch.linalg.vector_norm(weight, dim=1).clamp_min(torch.finfo(weight.dtype).tiny ** 0.5)
