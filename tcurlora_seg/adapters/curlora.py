"""CURLoRA: each weight's update is C U R, with columns and rows drawn from the weight itself; only U trains."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import SliceBySlice, check_indices, scale_of
from tcurlora_seg.adapters.selection import select
from tcurlora_seg.adapters.stacks import Stack, check_rank


class CURLoRA(SliceBySlice):
    """CUR adaptation of each matrix by itself: delta = alpha C U R.

    C = W[:, columns] (out, r) and R = W[rows, :] (r, in) are frozen copies; U (r, r) starts at zero. Columns are drawn
    with replacement with probability in proportion to 1 / p_j, p_j = ||W[:, j]||^2 / ||W||_F^2, so that the smallest
    are favoured; rows likewise and independently. It trains r^2 numbers per matrix.

    The public code draws by 1 / (p + 0.001), which flattens the odds; this is the paper's formula.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: r.
        alpha: the scale.
        selection: rule for columns and rows; `inverse` is the method's own (see `selection.select`).
        row_selection: another rule for the rows.
        generator: for the draw.

    Raises:
        UserError: a rank that the slices cannot have, an unknown rule.

    Source: Fawi, CURLoRA, 2024, arXiv 2408.14572.
    """

    rows: Tensor
    columns: Tensor
    C: Tensor
    R: Tensor

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int,
        alpha: float = 1.0,
        selection: Literal["norm", "leverage", "uniform", "inverse"] = "inverse",
        row_selection: Literal["norm", "leverage", "uniform", "inverse"] | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_rank(rank, stack.shape, stack.roles)
        self.alpha = scale_of(alpha)
        chosen = [select(weight[None], rank, selection, generator, row_selection) for weight in weights]
        self.core = nn.Parameter(weights.new_zeros(len(weights), rank, rank))
        self.register_buffer("rows", torch.stack([rows for rows, _ in chosen]))
        self.register_buffer("columns", torch.stack([columns for _, columns in chosen]))
        for name in ("C", "R"):
            self.register_buffer(name, None, persistent=False)
        self.gather(weights)

    def gather(self, weights: Tensor) -> None:
        """Recompute C (slices, out, r) and R (slices, r, in) from the weights."""
        _, out, inner = weights.shape
        check_indices(self.rows, out)
        check_indices(self.columns, inner)
        self.C = weights.gather(2, self.columns[:, None, :].expand(-1, out, -1))
        self.R = weights.gather(1, self.rows[:, :, None].expand(-1, -1, inner))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """alpha C U R."""
        return self.alpha * (self.C[index] @ self.core[index] @ self.R[index])

    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """R, U and C one after another."""
        return F.linear(F.linear(F.linear(x, self.R[index]), self.alpha * self.core[index]), self.C[index])
