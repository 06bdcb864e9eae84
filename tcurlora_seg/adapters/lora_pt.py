"""LoRA-PT: training of the leading part of a stack's tensor SVD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, no_autocast
from tcurlora_seg.adapters.spectrum import leading_triples
from tcurlora_seg.adapters.stacks import Stack, check_rank
from tcurlora_seg.adapters.tchain import apply_chain, building_is_cheaper, left_in_basis, right_in_basis
from tcurlora_seg.adapters.tproduct import fourier_basis, rotations, tproduct, tproduct_slice


class LoRAPT(Adapter):
    """Principal tensor singular values and vectors: delta = U * S * V - (U * S * V at the start).

    With What_k = U_k S_k V_k^H the SVD of each Fourier slice, the first r triples, brought back by the inverse FFT,
    are U (n, out, r), the f-diagonal S (n, r) and V (n, r, in). All three are real and train: n r (out + 1 + in)
    numbers, 165,960 r in the paper's network.

    The paper splits W into this part and a frozen rest; the difference leaves the base unchanged. The start is stored,
    since no two machines compute the same SVD to the bit.

    Args:
        stack: the stack's geometry.
        weights: W (n, out, in).
        rank: r.
        generator: unused; nothing is drawn.

    Raises:
        UserError: a rank that the slices cannot have.

    Source: He et al., LoRA-PT, 2024, arXiv 2407.11292. Its public code never trains these tensors; this does.
    """

    start_U: Tensor
    start_S: Tensor
    start_V: Tensor
    basis: Tensor
    rotations: Tensor

    def __init__(self, stack: Stack, weights: Tensor, *, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        check_rank(rank, stack.shape, stack.roles)
        n = len(weights)
        left, values, right = leading_triples(weights, rank)
        starts = [torch.fft.irfft(part, n=n, dim=0).contiguous() for part in (left, values, right.mH)]
        self.U, self.S, self.V = map(nn.Parameter, starts)
        for name, start in zip("USV", starts, strict=True):
            self.register_buffer(f"start_{name}", start.clone())
        self.register_buffer("basis", fourier_basis(n).to(weights), persistent=False)
        self.register_buffer("rotations", rotations(n).to(weights), persistent=False)

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """(U * S * V)_index minus the same at the start."""
        now, start = (
            tproduct_slice(tproduct(left, torch.diag_embed(values)), right, index)
            for left, values, right in self._factors()
        )
        return now - start

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """Two chains of thin products (see `tchain`), where that is cheaper."""
        n, rank, inner = self.V.shape
        tokens = x.numel() // x.shape[-1]
        if building_is_cheaper(tokens, len(indices), self.U.shape[1], inner, n, 2 * rank, trained=True):
            return super().updates(indices, x, ys, weights)
        with no_autocast(x):  # a small difference of large numbers
            x = x.to(torch.promote_types(x.dtype, self.U.dtype))
            now, start = (
                apply_chain(
                    left_in_basis(left, self.basis), torch.diag_embed(values), right_in_basis(right, self.basis),
                    self.rotations, x, indices,
                )
                for left, values, right in self._factors()
            )  # fmt: skip
        return [a - b for a, b in zip(now, start, strict=True)]

    def _factors(self) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        return (self.U, self.S, self.V), (self.start_U, self.start_S, self.start_V)
