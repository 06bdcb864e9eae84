"""PiSSA: low-rank updates that start from the leading singular triples of each weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import SliceBySlice
from tcurlora_seg.adapters.spectrum import leading_triples
from tcurlora_seg.adapters.stacks import Stack, check_rank


class PiSSA(SliceBySlice):
    """Principal singular values and vectors adaptation: delta = B A - B0 A0, the change since its own start.

    With W = U S V' and its r leading triples, B0 = U_r sqrt(S_r) (out, r) and A0 = sqrt(S_r) V_r' (r, in): the method's
    form, r (out + in) numbers per matrix. With `core`, delta = B M A - B0 M0 A0 from B0 = U_r, M0 = diag(S_r) and
    A0 = V_r': r^2 numbers more, as the table of tCURLoRA's paper counts.

    The method keeps W - B0 A0 as its frozen weight; here the base is unchanged and the start is subtracted. The start
    is stored with the trained numbers, since no two machines compute the same SVD to the bit.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: r.
        core: train a full (r, r) matrix between the singular vectors.
        generator: unused; nothing is drawn.

    Raises:
        UserError: a rank that the slices cannot have.

    Source: Meng, Wang, Zhang, PiSSA, 2024, arXiv 2404.02948.
    """

    B0: Tensor
    A0: Tensor
    M0: Tensor

    def __init__(
        self, stack: Stack, weights: Tensor, *, rank: int, core: bool = False, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_rank(rank, stack.shape, stack.roles)
        triples = [leading_triples(w.double()[None], rank) for w in weights]  # of one slice: a matrix SVD, and real
        B0, values, A0 = (torch.cat(part).real.to(weights) for part in zip(*triples, strict=True))
        A0 = A0.mT.contiguous()
        self.core = core
        if core:
            self.register_buffer("M0", torch.diag_embed(values))
            self.M = nn.ParameterList(m.clone() for m in self.M0)
        else:
            B0, A0 = B0 * values.sqrt()[:, None, :], A0 * values.sqrt()[:, :, None]
        self.register_buffer("B0", B0)
        self.register_buffer("A0", A0)
        self.A = nn.ParameterList(a.clone() for a in A0)
        self.B = nn.ParameterList(b.clone() for b in B0)

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """B A - B0 A0, or with the cores between them, as (B - B0) A + B0 (A - A0): without cancellation."""
        right, moved = self._right(index)
        return (self.B[index] - self.B0[index]) @ right + self.B0[index] @ moved

    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """The same two products, each from right to left."""
        right, moved = self._right(index)
        update = F.linear(F.linear(x, right), self.B[index] - self.B0[index])
        return update + F.linear(F.linear(x, moved), self.B0[index])

    def _right(self, index: int) -> tuple[Tensor, Tensor]:
        """The factor (r, in) right of B, the core included, and how far it has moved."""
        A, moved = self.A[index], self.A[index] - self.A0[index]
        if not self.core:
            return A, moved
        M, M0 = self.M[index], self.M0[index]
        return M @ A, (M - M0) @ A + M0 @ moved
