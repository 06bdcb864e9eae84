"""PiSSA: low-rank updates that start from the leading singular triples of each weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import SliceBySlice
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
        B0, values, A0 = map(torch.stack, zip(*(leading_triples(w, rank) for w in weights), strict=True))
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
        """B A - B0 A0, or with the cores between them."""
        right, start = self._right(index)
        return self.B[index] @ right - self.B0[index] @ start

    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """(B - B0) A x + B0 (A - A0) x: the same without cancellation, which half precision needs."""
        right, start = self._right(index)
        moved = F.linear(F.linear(x, right), self.B[index] - self.B0[index])
        return moved + F.linear(F.linear(x, right - start), self.B0[index])

    def _right(self, index: int) -> tuple[Tensor, Tensor]:
        """The factor (r, in) right of B, now and at the start, the core included."""
        if self.core:
            return self.M[index] @ self.A[index], self.M0[index] @ self.A0[index]
        return self.A[index], self.A0[index]


def leading_triples(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `rank` leading singular triples of `matrix` (out, in), largest first: U (out, r), values (r,), V' (r, in)."""
    out, inner = matrix.shape
    if out < inner:
        right, values, left = leading_triples(matrix.mT, rank)
        return left.mT, values, right.mT
    # eigenvectors of the smaller Gram matrix, in double precision: several times faster than the whole decomposition
    tall = matrix.double()
    right = torch.linalg.eigh(tall.mT @ tall).eigenvectors[:, -rank:].flip(-1)
    left = tall @ right
    values = torch.linalg.vector_norm(left, dim=0)
    left = left / values.clamp_min(torch.finfo(matrix.dtype).tiny)
    return left.to(matrix), values.to(matrix), right.mT.to(matrix)
