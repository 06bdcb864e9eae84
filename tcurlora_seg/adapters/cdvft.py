"""CDVFT: each weight's update is a circulant matrix between two diagonal ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import SliceBySlice, scale_of
from tcurlora_seg.adapters.circulant import circulant, multiply_circulant
from tcurlora_seg.adapters.stacks import Stack
from tcurlora_seg.errors import UserError


class CDVFT(SliceBySlice):
    """Circulant and diagonal vectors: delta = alpha diag(a3) circ(c) diag(a1).

        delta[i, j] = alpha a3_i c_(i-j mod p) a1_j        for a square matrix of p rows

    Other matrices take ceil(out / p) x ceil(in / p) circulant blocks of size p, the last ones cut off. It trains
    out + in + blocks p numbers per matrix.

    The formula follows a review of the paper (its product of 2 m - 1 factors at m = 2); no public code was found. The
    start is ours, c = 0 and a1 = a3 = 1, and so is alpha = 1.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        alpha: the scale.
        block_size: p; None for the smaller side of the matrix, 768 in the paper's network.
        generator: unused; nothing is drawn.

    Raises:
        UserError: a block size below 1 or above the larger side.

    Source: Ding et al., Parameter-Efficient Fine-Tuning with Circulant and Diagonal Vectors, 2025, arXiv 2505.00580.
    """

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        alpha: float = 1.0,
        block_size: int | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        slices, out, inner = weights.shape
        size = min(out, inner) if block_size is None else block_size
        if not 1 <= size <= max(out, inner):
            raise UserError(
                f"block_size={size} is not possible for the {out} x {inner} weights of {', '.join(stack.roles)}: "
                f"choose 1 to {max(out, inner)}"
            )
        self.alpha = scale_of(alpha)
        blocks = math.ceil(out / size), math.ceil(inner / size), size
        self.a1 = nn.ParameterList(weights.new_ones(inner) for _ in range(slices))
        self.c = nn.ParameterList(weights.new_zeros(blocks) for _ in range(slices))
        self.a3 = nn.ParameterList(weights.new_ones(out) for _ in range(slices))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """alpha diag(a3) circ(c) diag(a1)."""
        out, inner = weight.shape
        return self.alpha * self.a3[index][:, None] * circulant(self.c[index])[:out, :inner] * self.a1[index]

    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Entrywise products around one circular convolution, by FFT."""
        c, a3 = self.c[index], self.alpha * self.a3[index]
        padded = F.pad(self.a1[index] * x, (0, c.shape[1] * c.shape[2] - x.shape[-1]))
        return a3 * multiply_circulant(c, padded)[..., : len(a3)]
