"""tCURLoRA: the update of a whole stack of weights is C * U * R under the t-product, and only U trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, check_indices, no_autocast
from tcurlora_seg.adapters.selection import select
from tcurlora_seg.adapters.spectrum import rank_holding
from tcurlora_seg.adapters.stacks import Stack, check_rank
from tcurlora_seg.adapters.tchain import apply_chain, building_is_cheaper, left_in_basis, right_in_basis
from tcurlora_seg.adapters.tproduct import fourier_basis, orthonormalised, rotations, tproduct, tproduct_slice
from tcurlora_seg.errors import UserError


class TCURLoRA(Adapter):
    """Tensor CUR adaptation: W = W0 + C * U * R.

        delta_i = (C * U * R)_i = sum over j + k + l = i (mod n) of C_j U_k R_l

    C = W0[:, :, columns] (n, out, r) and R = W0[:, rows, :] (n, r, in) are frozen; the core U (n, r, r) is real and
    starts at zero. It trains n r^2 numbers, and the update of one slice has a rank of up to n r.

    The surprise: every slice's update draws on the columns and rows of all slices. It is not C_i U_i R_i, and it
    depends on the order of the slices.

    Beyond the paper, as options: C and R may train too (n r (out + in) numbers more). They may be made orthonormal
    under the t-product, C' * C = R * R' = I, by a QR decomposition of every Fourier slice: that keeps their span, and
    so the set of updates, and makes ||delta|| of the whole stack equal to ||U||, independent of the columns' sizes.
    (Orthonormal columns of [C_0 C_1 ...] instead would mix slices, and the product would be no t-product any more.)

    Not offered, since they add nothing: a complex core for every frequency (this core in other coordinates, n r^2 real
    numbers either way), and a scale of U (under Adam the same as `training.adapter_lr_factor`).

    Args:
        stack: the stack's geometry.
        weights: W0 (n, out, in).
        rank: r; None to take it from `energy`.
        selection: rule for columns and rows; `norm` is the paper's (see `selection.select`).
        row_selection: another rule for the rows.
        energy: instead of a rank, the share of ||W0||_F^2 that the best approximation of tubal rank r must hold: the
            smallest such r of each stack.
        orthonormal: see above; C and R are then stored, since no two machines compute the same QR to the bit.
        train_factors: whether C and R train.
        generator: for the rules that draw.

    Raises:
        UserError: a rank that the slices cannot have, an unknown rule, both or none of rank and energy.

    Source: He, Cheng, Zhu, Cai, Yu, MICCAI 2025, arXiv 2501.02227.
    """

    rows: Tensor
    columns: Tensor
    C: Tensor
    R: Tensor
    C_basis: Tensor
    R_basis: Tensor
    basis: Tensor
    rotations: Tensor

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int | None,
        selection: Literal["norm", "leverage", "uniform", "inverse"] = "norm",
        row_selection: Literal["norm", "leverage", "uniform", "inverse"] | None = None,
        energy: float | None = None,
        orthonormal: bool = False,
        train_factors: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if (rank is None) == (energy is None):
            raise UserError(f"rank={rank} and energy={energy}: give one of the two, and null for the other")
        if energy is not None:
            rank = rank_holding(weights, energy)
        assert rank is not None
        check_rank(rank, stack.shape, stack.roles)
        rows, columns = select(weights, rank, selection, generator, row_selection)
        n, self.by_energy = len(weights), energy is not None
        self.train_factors, self.regathered = train_factors, not (train_factors or orthonormal)
        self.core = nn.Parameter(weights.new_zeros(n, rank, rank))
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        C, R = weights[:, :, columns].contiguous(), weights[:, rows, :].contiguous()
        if orthonormal:
            C, R = orthonormalised(C), orthonormalised(R.mT).mT.contiguous()
        for name, factor in (("C", C), ("R", R)):
            if train_factors:
                self.register_parameter(name, nn.Parameter(factor))
            else:
                self.register_buffer(name, factor, persistent=orthonormal)
        for name in ("C_basis", "R_basis", "basis", "rotations"):
            self.register_buffer(name, None, persistent=False)
        self.gather(weights)

    def gather(self, weights: Tensor) -> None:
        """Recompute C and R from W0, if no file holds them, and their form in the Fourier basis for `updates`."""
        check_indices(self.rows, weights.shape[1])
        check_indices(self.columns, weights.shape[2])
        if self.regathered:
            self.C = weights[:, :, self.columns].contiguous()
            self.R = weights[:, self.rows, :].contiguous()
        self._turn()

    def _turn(self) -> None:
        """Compute what `updates` needs in the precision and on the device of C and R."""
        n = len(self.core)
        self.basis, self.rotations = fourier_basis(n).to(self.C), rotations(n).to(self.C)
        if not self.train_factors:
            self.C_basis, self.R_basis = left_in_basis(self.C, self.basis), right_in_basis(self.R, self.basis)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TCURLoRA:
        """Move or cast, as `to` and `double` do: a basis cast from float32 would keep float32's rounding."""
        super()._apply(fn, recurse)
        self._turn()
        return self

    def ranks(self) -> list[int] | None:
        """r for every slice, where `energy` determines it."""
        n, rank, _ = self.core.shape
        return n * [rank] if self.by_energy else None

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """(C * U * R)_index."""
        return tproduct_slice(tproduct(self.C, self.core), self.R, index)

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """Chain of three thin products (see `tchain`), where that is cheaper than `delta`."""
        n, rank, _ = self.core.shape
        tokens = x.numel() // x.shape[-1]
        sizes = tokens, len(indices), self.C.shape[1], self.R.shape[2], n, rank
        if building_is_cheaper(*sizes, trained=self.train_factors):
            return super().updates(indices, x, ys, weights)
        left, right = self.C_basis, self.R_basis
        if self.train_factors:
            with no_autocast(x):
                left, right = left_in_basis(self.C, self.basis), right_in_basis(self.R, self.basis)
        return apply_chain(left, self.core, right, self.rotations, x, indices)
