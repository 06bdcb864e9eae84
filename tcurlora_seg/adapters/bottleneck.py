"""Bottleneck adapter: a residual linear bottleneck on every layer's output."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import SliceBySlice
from tcurlora_seg.adapters.stacks import Stack, check_rank


class Bottleneck(SliceBySlice):
    """A residual bottleneck on the output: y' = y + B A y with y = W x + b, A (r, out) and B (out, r).

        delta = B A W,    bias_delta = B A b

    A starts Xavier-uniform and B at zero. It trains 2 r out numbers per matrix. There is no activation inside and no
    bias, so that it merges into the layer.

    RepAdapter puts the bottleneck before a layer and groups the channels of B. Here it follows each linear layer and B
    is dense, which gives the parameter count of tCURLoRA's paper.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: r.
        generator: for the start of A.

    Raises:
        UserError: a rank that the slices cannot have.

    Source: Luo et al., Towards efficient visual adaption via structural re-parameterization, 2023, arXiv 2302.08106.
    """

    def __init__(self, stack: Stack, weights: Tensor, *, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        check_rank(rank, stack.shape, stack.roles)
        slices, out, _ = weights.shape
        bound = math.sqrt(6 / (out + rank))
        starts = torch.empty(slices, rank, out).uniform_(-bound, bound, generator=generator).to(weights)
        self.A = nn.ParameterList(start.clone() for start in starts)
        self.B = nn.ParameterList(weights.new_zeros(out, rank) for _ in range(slices))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """B A W."""
        return self.B[index] @ (self.A[index] @ weight)

    def bias_delta(self, index: int, bias: Tensor | None) -> Tensor | None:
        """B A b."""
        return None if bias is None else self.B[index] @ (self.A[index] @ bias)

    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """A, then B, on the outputs."""
        return F.linear(F.linear(y, self.A[index]), self.B[index])
