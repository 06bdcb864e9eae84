"""CURLoRA against a slow, literal transcription of its definition."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg import adapt
from tcurlora_seg.adapters.curlora import CURLoRA
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError


def make(rank: int = 3, alpha: float = 1.0, seed: int = 0) -> tuple:
    g = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, 6, 5, generator=g, dtype=torch.float64)
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 5)
    adapter = CURLoRA(stack, weights, rank=rank, alpha=alpha, generator=g)
    with torch.no_grad():
        adapter.core.copy_(torch.randn(2, rank, rank, generator=g, dtype=torch.float64))
    return adapter, weights


@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_delta_is_alpha_times_columns_core_rows_of_the_same_matrix(alpha):
    adapter, weights = make(alpha=alpha)
    for s in range(2):
        expected = torch.zeros(6, 5, dtype=torch.float64)
        for a in range(6):
            for b in range(5):
                for p in range(3):
                    for q in range(3):
                        column, row = adapter.columns[s, p], adapter.rows[s, q]
                        expected[a, b] += (
                            alpha * weights[s, a, column] * adapter.core[s, p, q].item() * weights[s, row, b]
                        )
        assert torch.allclose(adapter.delta(s, weights[s]), expected, rtol=0, atol=1e-12)


def test_columns_and_rows_are_drawn_by_inverted_shares_with_replacement():
    weights = torch.ones(1, 3, 4).double()
    weights[0, :, 0] = 0.5
    weights[0, 0] *= 0.4
    stack = Stack((Slot(0, "a", "layer", 0, 3),), (0,), ("a",), 1, 3, 4)
    g = torch.Generator().manual_seed(0)
    drawn = [CURLoRA(stack, weights, rank=2, generator=g) for _ in range(3000)]
    for name, dim, size in (("columns", 0, 4), ("rows", 1, 3)):
        energy = weights[0].square().sum(dim)
        odds = (1 / energy) / (1 / energy).sum()
        indices = torch.cat([getattr(adapter, name).flatten() for adapter in drawn])
        assert torch.allclose(torch.bincount(indices, minlength=size) / len(indices), odds.float(), atol=0.02)
        assert any(len(set(getattr(adapter, name)[0].tolist())) == 1 for adapter in drawn), "duplicates are kept"
    assert any(adapter.rows[0, 0] != adapter.columns[0, 0] for adapter in drawn), "two draws, not one"


def test_the_core_starts_at_zero_and_is_all_that_trains():
    weights = torch.randn(2, 6, 5)
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 5)
    adapter = CURLoRA(stack, weights, rank=2, generator=torch.Generator().manual_seed(0))
    assert [name for name, _ in adapter.named_parameters()] == ["core"] and not adapter.core.any()
    assert set(adapter.state_dict()) == {"core", "rows", "columns"}


def test_the_rules_of_selection_apply_to_each_matrix_by_itself():
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 6, 5, generator=g) * (1 + torch.rand(2, 6, 5, generator=g))
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 5)
    adapter = CURLoRA(stack, weights, rank=2, selection="norm", row_selection="uniform", generator=g)
    for s in range(2):
        assert adapter.columns[s].tolist() == weights[s].norm(dim=0).argsort(descending=True)[:2].tolist()
    drawn = [CURLoRA(stack, weights, rank=2, selection="norm", row_selection="uniform", generator=g) for _ in range(9)]
    assert len({tuple(adapter.rows.flatten().tolist()) for adapter in drawn}) > 1


@pytest.mark.parametrize("rank", [0, 25])
def test_a_rank_that_no_matrix_can_have_is_refused(rank, tiny):
    with pytest.raises(UserError, match=f"rank={rank} "):
        adapt(tiny, "curlora", rank=rank)
