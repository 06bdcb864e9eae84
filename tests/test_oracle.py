"""The oracle against least squares over the core's entries, written out."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch

from tcurlora_seg.adapters.selection import select
from tcurlora_seg.adapters.tproduct import tproduct

_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).parents[1] / "docs" / "oracle.py")
oracle = importlib.util.module_from_spec(_spec)
sys.modules["oracle"] = oracle
_spec.loader.exec_module(oracle)
shares_held = oracle.shares_held


def pair(n: int = 4, out: int = 6, inner: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, out, inner, generator=g, dtype=torch.float64) for _ in range(2))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("n", [1, 3, 4])
@pytest.mark.parametrize("selection", ["norm", "inverse"])
def test_the_share_is_that_of_the_least_squares_solution_over_every_entry_of_the_core(n, selection):
    weights, change = pair(n)
    ranks = [1, 2, 4]
    g = generator()
    for held, rank in zip(shares_held(weights, change, ranks, selection=selection, generator=generator()), ranks,
                          strict=True):  # fmt: skip
        rows, columns = select(weights, rank, selection, g)
        C, R = weights[:, :, columns], weights[:, rows, :]
        design = []
        for entry in range(n * rank * rank):
            core = torch.zeros(n * rank * rank, dtype=torch.float64)
            core[entry] = 1
            design.append(tproduct(tproduct(C, core.view(n, rank, rank)), R).flatten())
        design = torch.stack(design, 1)
        solution = torch.linalg.lstsq(design, change.flatten()[:, None], driver="gelsd").solution
        rest = (change.flatten() - (design @ solution)[:, 0]).square().sum() / change.square().sum()
        assert held.rank == rank and held.cur == pytest.approx(1 - rest.item(), abs=1e-9)


def test_the_best_tubal_rank_holds_more_and_the_full_rank_everything():
    weights, change = pair(out=5)
    shares = shares_held(weights, change, [1, 2, 3, 4, 5], generator=generator())
    assert all(held.cur < held.tsvd for held in shares[:-1])
    assert all(a.tsvd < b.tsvd and a.cur < b.cur for a, b in itertools.pairwise(shares))
    assert shares[-1].tsvd == pytest.approx(1) == shares[-1].cur


def test_the_tensor_svd_holds_what_its_truncation_holds():
    weights, change = pair()
    whole = torch.fft.fft(change, dim=0)
    squares = torch.linalg.svdvals(whole).square()
    for held in shares_held(weights, change, [1, 3], generator=generator()):
        assert held.tsvd == pytest.approx((squares[:, : held.rank].sum() / squares.sum()).item())


def test_an_update_made_of_c_and_r_is_held_whole():
    weights, _ = pair()
    rows, columns = select(weights, 2, "norm", generator())
    core = torch.randn(4, 2, 2, dtype=torch.float64, generator=generator())
    change = tproduct(tproduct(weights[:, :, columns], core), weights[:, rows, :])
    assert shares_held(weights, change, [2], generator=generator())[0].cur == pytest.approx(1)


def test_rows_and_columns_aligned_with_a_target_are_those_that_hold_it_alone():
    weights, _ = pair()
    core = torch.randn(4, 1, 1, dtype=torch.float64, generator=generator())
    change = tproduct(tproduct(weights[:, :, [3]], core), weights[:, [4], :])
    rows, columns = oracle.aligned(weights, change, 1)
    assert (rows.tolist(), columns.tolist()) == ([4], [3])
    assert shares_held(weights, change, [1], selection=change, generator=generator())[0].cur == pytest.approx(1)
