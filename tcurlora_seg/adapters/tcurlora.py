"""tCURLoRA: the update of a whole stack of weights is C * U * R under the t-product, and only U trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, check_indices, no_autocast
from tcurlora_seg.adapters.selection import select
from tcurlora_seg.adapters.stacks import Stack, check_rank
from tcurlora_seg.adapters.tproduct import fourier_basis, rotations, tproduct, tproduct_slice


class TCURLoRA(Adapter):
    """Tensor CUR adaptation: W = W0 + C * U * R.

        delta_i = (C * U * R)_i = sum over j + k + l = i (mod n) of C_j U_k R_l

    C = W0[:, :, columns] (n, out, r) and R = W0[:, rows, :] (n, r, in) are frozen; the core U (n, r, r) is real and
    starts at zero. It trains n r^2 numbers, and the update of one slice has a rank of up to n r.

    The surprise: every slice's update draws on the columns and rows of all slices. It is not C_i U_i R_i, and it
    depends on the order of the slices.

    Args:
        stack: the stack's geometry.
        weights: W0 (n, out, in).
        rank: r.
        selection: how rows and columns are chosen; `norm` is the paper's (see `selection.select`).
        generator: for the rules that draw.

    Raises:
        UserError: a rank that the slices cannot have, an unknown rule.

    Source: He, Cheng, Zhu, Cai, Yu, MICCAI 2025, arXiv 2501.02227.
    """

    rows: Tensor
    columns: Tensor
    C: Tensor
    R: Tensor
    C_basis: Tensor
    R_basis: Tensor
    rotations: Tensor

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int,
        selection: Literal["norm", "leverage", "uniform", "inverse"] = "norm",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_rank(rank, stack.shape, stack.roles)
        rows, columns = select(weights, rank, selection, generator)
        self.core = nn.Parameter(weights.new_zeros(len(weights), rank, rank))
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        for name in ("C", "R", "C_basis", "R_basis"):
            self.register_buffer(name, None, persistent=False)
        self.register_buffer("rotations", rotations(len(weights)).to(weights), persistent=False)
        self.gather(weights)

    def gather(self, weights: Tensor) -> None:
        """Take C and R from W0 again, and turn them into the Fourier basis for `updates`."""
        check_indices(self.rows, weights.shape[1])
        check_indices(self.columns, weights.shape[2])
        self.C = weights[:, :, self.columns].contiguous()
        self.R = weights[:, self.rows, :].contiguous()
        basis = fourier_basis(len(weights)).to(weights)
        reversed_slices = -torch.arange(len(weights), device=weights.device) % len(weights)
        self.C_basis = torch.einsum("mn,nor->omr", basis, self.C[reversed_slices]).flatten(1)
        self.R_basis = torch.einsum("mn,nri->mri", basis, self.R).flatten(0, 1)

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """(C * U * R)_index."""
        return tproduct_slice(tproduct(self.C, self.core), self.R, index)

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """The same without any (out, in) matrix, where that is cheaper.

        (C * U * R)_i x = sum_j C_(i-j) w_j with w = U * (R x): the inner product of the reversed slices of C with w
        shifted by i. An orthonormal basis of the slices keeps inner products, and in the real Fourier basis both the
        shift and the convolution with U are 2 x 2 blocks of r x r matrices. What remains are two projections, frozen
        and shared by all slices with the input x, and n / 2 small products between them.
        """
        n, rank, _ = self.core.shape
        tokens = x.numel() // x.shape[-1]
        if _delta_is_cheaper(tokens, len(indices), self.C.shape[1], self.R.shape[2], n, rank):
            return super().updates(indices, x, ys, weights)
        z, blocks = F.linear(x, self.R_basis).reshape(tokens, n * rank), (n + 1) // 2
        if n % 2:
            z = F.pad(z, (0, rank))  # the constant vector has no partner
        z = z.view(tokens, blocks, 2 * rank).transpose(0, 1)
        w = torch.bmm(z, self._cores(indices).to(z.dtype))
        w = w.view(blocks, tokens, len(indices), 2 * rank).permute(2, 1, 0, 3).flatten(2)
        y = F.linear(w[..., : n * rank], self.C_basis)
        return list(y.view(len(indices), *x.shape[:-1], -1).unbind())

    def _cores(self, indices: Sequence[int]) -> Tensor:
        """U, shifted for each slice, in the Fourier basis and transposed: (blocks, 2 r, slices 2 r)."""
        with no_autocast(self.core):
            shifted = torch.stack([self.core.roll(-i, 0) for i in indices])
            cores = torch.einsum("bpqn,snij->bqjspi", self.rotations, shifted)
        return cores.flatten(3).flatten(1, 2)


def _delta_is_cheaper(tokens: int, slices: int, out: int, inner: int, n: int, rank: int) -> bool:
    """Whether building the updates of the weights takes fewer multiplications than the factored form.

    A training step counted forward and backward: gradients reach the input and the core, never C and R.
    """
    factored = 2 * tokens * n * rank * (inner + slices * out) + 3 * tokens * slices * 2 * n * rank**2
    built = 3 * slices * out * inner * (tokens + n * rank)
    return built < factored
