"""Row and column selection for a frozen stack W (slices, out, in). What_k is its Fourier slice k."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tcurlora_seg.adapters.spectrum import leading_triples
from tcurlora_seg.adapters.tproduct import fourier, multiplicities
from tcurlora_seg.errors import UserError

Rule = Literal["norm", "leverage", "uniform", "inverse"]


def select(
    weights: Tensor, rank: int, rule: Rule, generator: torch.Generator, row_rule: Rule | None = None
) -> tuple[Tensor, Tensor]:
    """Choose `rank` rows and `rank` columns, the same in every slice.

    - `norm`, the paper's rule, is deterministic: the columns of largest sum_k ||What_k[:, j]||_2, then the rows of
      largest sum_k ||What_k[i, J]||_2 on the chosen columns J.
    - `leverage` draws without replacement, with probabilities in proportion to the leverage scores.
    - `uniform` draws without replacement.
    - `inverse` draws with replacement as CURLoRA does, the smallest favoured (see `inverse_draw`).

    Args:
        weights: (slices, out, in).
        rank: number of rows and of columns.
        rule: of the columns; see above.
        generator: a CPU generator for the rules that draw.
        row_rule: of the rows; None for the same.

    Returns:
        rows and columns, (rank,) int64 each.
    """
    row_rule = rule if row_rule is None else row_rule
    scores = leverage(weights, rank) if "leverage" in (rule, row_rule) else None
    rows = None if row_rule == "norm" else _choose(weights, rank, row_rule, 1, scores, generator)
    if rule == "norm":
        columns = _largest(spectral_norms(weights, dim=1), rank)
    else:
        columns = _choose(weights, rank, rule, 2, scores, generator)
    if rows is None:
        rows = _largest(spectral_norms(weights[:, :, columns], dim=2), rank)
    return rows, columns


def _choose(
    weights: Tensor, rank: int, rule: Rule, axis: int, scores: tuple[Tensor, Tensor] | None, generator: torch.Generator
) -> Tensor:
    """Draw along an axis (1: rows, 2: columns) by one of the rules that draw."""
    if rule == "leverage" and scores is not None:
        return _draw(scores[axis - 1], rank, generator)
    if rule == "uniform":
        return _draw(weights.new_ones(weights.shape[axis]), rank, generator)
    if rule == "inverse":  # by Parseval the Fourier slices give the same shares
        return inverse_draw(weights.square().sum((0, 3 - axis)), rank, generator)
    raise UserError(f"{rule} is no rule of selection: choose from norm, leverage, uniform, inverse")


def spectral_norms(weights: Tensor, dim: int) -> Tensor:
    """Summed spectral norms of columns or rows: sum_k ||What_k||_2 over all n Fourier slices.

    Args:
        weights: W (n, out, in).
        dim: axis of the norm: 1 for the columns' norms (in,), 2 for the rows' (out,).
    """
    norms = torch.linalg.vector_norm(fourier(weights), dim=dim)
    return multiplicities(len(weights)).to(norms) @ norms


def leverage(weights: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leverage scores of rows (out,) and columns (in,) in the leading t-singular subspaces of dimension `rank`.

    With `weights` W (n, out, in) and What_k = U_k S_k V_k^H, column j scores sum_k ||V_k[j, :rank]||^2 and row i
    sum_k ||U_k[i, :rank]||^2; each sums to n rank.

    Source: Mahoney and Drineas, CUR matrix decompositions for improved data analysis, 2009, slice by slice.
    """
    left, _, right = leading_triples(weights, rank)
    counts = multiplicities(len(weights)).to(weights)
    rows, columns = (counts @ part.abs().square().sum(2) for part in (left, right))
    return rows, columns


def inverse_draw(energy: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Weighted sampling of indices with replacement, in proportion to 1 / energy; duplicates are kept.

    Args:
        energy: (..., size) squared norms; a zero counts as the smallest positive number.
        rank: number of indices.
        generator: a CPU generator.

    Returns:
        (..., rank) int64.
    """
    energy = energy.clamp_min(torch.finfo(energy.dtype).tiny)
    odds = energy.amin(-1, keepdim=True) / energy  # at most 1, so that no sum overflows
    edges = odds.double().cumsum(-1)
    points = torch.rand((*energy.shape[:-1], rank), generator=generator, dtype=torch.float64)
    drawn = torch.searchsorted(edges, points.to(edges.device) * edges[..., -1:], right=True)
    return drawn.clamp_max(energy.shape[-1] - 1)


def _draw(scores: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Draw `rank` different indices with probability in proportion to `scores`, by the largest of log p + Gumbel."""
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64).to(scores.device)
    return _largest(scores.double().log() - (-uniform.log()).log(), rank)


def _largest(scores: Tensor, rank: int) -> Tensor:
    """Indices of the largest scores, largest first; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:rank]
