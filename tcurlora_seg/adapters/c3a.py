"""C3A: each weight's update is a block-circulant matrix, a circular convolution of its input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter
from tcurlora_seg.adapters.circulant import circulant, multiply_circulant
from tcurlora_seg.adapters.stacks import Stack
from tcurlora_seg.errors import UserError


class C3A(Adapter):
    """Circular convolution adaptation: delta = blockcirc(w) / in.

        delta[m p + i, n p + j] = w[m, n, (j - i) mod p] / in

    w (out / p, in / p, p) holds the first row of each circulant block and trains: out in / p numbers per matrix, for
    an update of full rank.

    It starts at zero, as every method here does; PEFT's own default is Xavier-uniform, which changes the network before
    the first step. Division by `in` is PEFT's.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        block_size: p, a divisor of out and in; None for a third of their greatest common divisor (or all of it, if
            three does not divide it): 256 at hidden size 768, PEFT's default.
        generator: unused; nothing is drawn.

    Raises:
        UserError: a block size that does not divide both sides.

    Source: Chen et al., Parameter-Efficient Fine-Tuning via Circular Convolution, 2024, arXiv 2407.19342; PEFT's code.
    """

    def __init__(
        self, stack: Stack, weights: Tensor, *, block_size: int | None = None, generator: torch.Generator
    ) -> None:
        super().__init__()
        slices, out, inner = weights.shape
        common = math.gcd(out, inner)
        size = (common if common % 3 else common // 3) if block_size is None else block_size
        if size < 1 or common % size:
            raise UserError(
                f"block_size={size} does not divide both sides of the {out} x {inner} weights of "
                f"{', '.join(stack.roles)}: choose a divisor of {common}"
            )
        self.rows = nn.ParameterList(weights.new_zeros(out // size, inner // size, size) for _ in range(slices))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """blockcirc(w) / in."""
        return circulant(_columns(self.rows[index])) / weight.shape[1]

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """Circular convolution by FFT; all slices share the transform of the input."""
        blocks = torch.cat([_columns(self.rows[i]) for i in indices]) / x.shape[-1]
        return list(multiply_circulant(blocks, x).chunk(len(indices), -1))


def _columns(rows: Tensor) -> Tensor:
    """First columns of circulant blocks from their first rows: c_k = w_(-k mod p)."""
    return rows.flip(-1).roll(1, -1)
