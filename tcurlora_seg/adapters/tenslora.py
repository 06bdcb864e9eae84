"""TensLoRA: the updates of heads, roles or blocks as one tensor in Tucker form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, no_autocast, scale_of
from tcurlora_seg.adapters.stacks import Stack
from tcurlora_seg.errors import UserError


class TensLoRA(Adapter):
    """Tucker adaptation: T = G x_1 F_1 x_2 F_2 ...; every update is a slice of T.

        delta[h D + d, i] = alpha T[i, h, d, role, block]        for att_qkv_depth, D rows a head

    The tensorisation names the modes: `att` splits the rows into heads, `qkv` joins the roles of a block, `depth` joins
    the blocks. Roles and blocks that are not joined have separate tensors: `att` has one for each role and block, `qkv`
    one for each block, `depth` one for each role. Rows that are not split are one mode, `out`.

    The core G starts at zero, the factors F (size of the mode, its rank) orthonormal; all train. A tensor has the
    product of its ranks and the sum of size times rank numbers.

    Departures from the public code: every tensor draws its own factors (there all start alike); a rank above the size
    of a mode is that size (there it stays, with dependent columns); the head mode follows the heads, which are the
    slow index of the rows (there it takes every 12th row). A head is in / heads rows; weights
    without heads (o, up, down) are split into groups of the same size.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: of every mode; 4 in the source.
        tensorisation: see above.
        ranks: of single modes instead: `in`, `out`, `head`, `dim`, `role`, `block`.
        alpha: the scale.
        generator: for the start of the factors.

    Raises:
        UserError: a rank below 1 or above every mode, one in `ranks` above its mode, an unknown mode, rows that do not
            split into heads.

    Source: Marmoret et al., TensLoRA: Tensor Alternatives for Low-Rank Adaptation, 2025, arXiv 2509.19391.
    """

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int,
        tensorisation: Literal[
            "att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth", "att_qkv_depth"
        ] = "att_qkv_depth",
        ranks: Mapping[str, int] | None = None,
        alpha: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        joined = set(tensorisation.split("_"))
        sizes = _modes(stack, joined)
        chosen = _ranks(sizes, rank, ranks or {})
        self.alpha = scale_of(alpha)
        self.roles, self.blocks = len(stack.roles), len(stack.blocks)
        self.joins_roles, self.joins_blocks = "qkv" in joined, "depth" in joined
        tensors = (1 if self.joins_roles else self.roles) * (1 if self.joins_blocks else self.blocks)
        self.cores = nn.ParameterList(weights.new_zeros(*chosen.values()) for _ in range(tensors))
        self.factors = nn.ModuleList(
            nn.ParameterDict(
                {
                    mode: nn.init.orthogonal_(torch.empty(size, chosen[mode]), generator=generator).to(weights)
                    for mode, size in sizes.items()
                }
            )
            for _ in range(tensors)
        )

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """alpha times the slice of T: three thin matrices (see `_chain`)."""
        left, core, right = self._chain(index)
        return self.alpha * (left @ core.T @ right.T)

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """Three thin matrices one after another; slices of one tensor share the first product."""
        projected: dict[int, Tensor] = {}
        results = []
        for index in indices:
            tensor, (left, core, right) = self._tensor(index), self._chain(index)
            if tensor not in projected:
                projected[tensor] = F.linear(x, right.T)
            results.append(F.linear(F.linear(projected[tensor], self.alpha * core.T), left))
        return results

    def _tensor(self, index: int) -> int:
        """Which tensor holds a slice."""
        block, role = divmod(index, self.roles)
        return (0 if self.joins_blocks else block) * (1 if self.joins_roles else self.roles) + (
            0 if self.joins_roles else role
        )

    def _chain(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """left (out, a), core (b, a) and right (in, b) of a slice: delta = alpha left core' right'."""
        block, role = divmod(index, self.roles)
        factors: Mapping[str, Tensor] = self.factors[self._tensor(index)]  # type: ignore[assignment]
        core: Tensor = self.cores[self._tensor(index)]
        with no_autocast(core):
            if self.joins_blocks:
                core = core @ factors["block"][block]
            if self.joins_roles:
                core = core @ factors["role"][role]
            left = factors["out"] if "out" in factors else torch.kron(factors["head"], factors["dim"])
            return left, core.flatten(1), factors["in"]


def _modes(stack: Stack, joined: set[str]) -> dict[str, int]:
    """The modes of one tensor and their sizes."""
    sizes = {"in": stack.in_features, "out": stack.out_features}
    if "att" in joined:
        rows = stack.in_features // stack.heads
        if rows == 0 or stack.out_features % rows:
            raise UserError(
                f"the {stack.out_features} x {stack.in_features} weights of {', '.join(stack.roles)} do not split into "
                f"heads of {rows} rows: choose a tensorisation without att"
            )
        del sizes["out"]
        sizes |= {"head": stack.out_features // rows, "dim": rows}
    if "qkv" in joined:
        sizes["role"] = len(stack.roles)
    if "depth" in joined:
        sizes["block"] = len(stack.blocks)
    return sizes


def _ranks(sizes: Mapping[str, int], rank: int, single: Mapping[str, int]) -> dict[str, int]:
    """The rank of every mode."""
    largest = max(sizes.values())
    if not 1 <= rank <= largest:
        raise UserError(f"rank={rank} is not possible for the modes {_listed(sizes)}: choose 1 to {largest}")
    for mode, value in single.items():
        if mode not in sizes:
            raise UserError(f"ranks.{mode}: there is no such mode; this tensorisation has {_listed(sizes)}")
        if not 1 <= value <= sizes[mode]:
            raise UserError(f"ranks.{mode}={value} is not possible: choose 1 to {sizes[mode]}")
    return {mode: single.get(mode, min(rank, size)) for mode, size in sizes.items()}


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{mode} ({size})" for mode, size in sizes.items())
