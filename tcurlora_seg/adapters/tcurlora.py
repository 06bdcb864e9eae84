"""tCURLoRA: the update of a whole stack of weights is C * U * R under the t-product, and only U trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, check_indices
from tcurlora_seg.adapters.selection import select
from tcurlora_seg.adapters.stacks import Stack, check_rank
from tcurlora_seg.adapters.tchain import apply_chain, building_is_cheaper, left_in_basis, right_in_basis
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
        self.C_basis, self.R_basis = left_in_basis(self.C, basis), right_in_basis(self.R, basis)

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """(C * U * R)_index."""
        return tproduct_slice(tproduct(self.C, self.core), self.R, index)

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """The same as a chain of three thin products (see `tchain`), where that is cheaper."""
        n, rank, _ = self.core.shape
        tokens = x.numel() // x.shape[-1]
        if building_is_cheaper(tokens, len(indices), self.C.shape[1], self.R.shape[2], n, rank):
            return super().updates(indices, x, ys, weights)
        return apply_chain(self.C_basis, self.core, self.R_basis, self.rotations, x, indices)
