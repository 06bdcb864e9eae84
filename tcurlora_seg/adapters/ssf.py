"""SSF: scaling and shifting of the outputs of the transformer's layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.base import SliceBySlice
from tcurlora_seg.adapters.stacks import Stack


class SSF(SliceBySlice):
    """Scaling and shifting the outputs: y' = scale * y + shift, entry by entry, with y = W x + b.

        delta = diag(scale - 1) W,    bias_delta = (scale - 1) * b + shift

    scale (out) starts at one and shift (out) at zero. It trains 2 out numbers per layer, LayerNorms too, whose W is
    the vector that multiplies the normalised tokens. Both merge into the layers, which gives q, k and v a bias.

    The public code starts scale and shift with noise of 0.02; here the start leaves the network unchanged.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in), or (slices, out) of LayerNorms.
        generator: unused; nothing is drawn.

    Source: Lian et al., Scaling and shifting your features, 2022, arXiv 2210.08823.
    """

    vectors = True

    def __init__(self, stack: Stack, weights: Tensor, *, generator: torch.Generator) -> None:
        super().__init__()
        slices, out = weights.shape[:2]
        self.scale = nn.ParameterList(weights.new_ones(out) for _ in range(slices))
        self.shift = nn.ParameterList(weights.new_zeros(out) for _ in range(slices))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """diag(scale - 1) W."""
        change = self.scale[index] - 1
        return change * weight if weight.ndim == 1 else change[:, None] * weight

    def bias_delta(self, index: int, bias: Tensor | None) -> Tensor:
        """(scale - 1) * b + shift."""
        shift = self.shift[index]
        return shift if bias is None else (self.scale[index] - 1) * bias + shift

    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """(scale - 1) y."""
        return (self.scale[index] - 1).to(y.dtype) * y
