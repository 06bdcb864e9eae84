"""Selection of rows and columns against literal transcriptions of the rules."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg.adapters.selection import inverse_draw, leverage, select
from tcurlora_seg.errors import UserError

RULES = ["norm", "leverage", "uniform", "inverse"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stack(slices: int = 6, out: int = 10, inner: int = 7, seed: int = 0) -> torch.Tensor:
    """A tensor whose rows and columns have clearly different sizes."""
    g = generator(seed)
    weights = torch.randn(slices, out, inner, dtype=torch.float64, generator=g)
    return weights * (0.2 + torch.rand(out, 1, dtype=torch.float64, generator=g)) * torch.linspace(1, 3, inner)


@pytest.mark.parametrize("slices", [1, 2, 5, 6])
def test_norm_is_the_papers_rule_on_the_whole_spectrum(slices):
    weights, rank = stack(slices), 3
    spectrum = torch.fft.fft(weights, dim=0)
    alpha = [sum(spectrum[k, :, j].norm().item() for k in range(slices)) for j in range(7)]
    columns = sorted(range(7), key=lambda j: -alpha[j])[:rank]
    beta = [sum(spectrum[k, i, columns].norm().item() for k in range(slices)) for i in range(10)]
    rows = sorted(range(10), key=lambda i: -beta[i])[:rank]
    assert [t.tolist() for t in select(weights, rank, "norm", generator())] == [rows, columns]


def test_norm_scores_rows_on_the_chosen_columns_only():
    weights = torch.zeros(2, 3, 3)
    weights[:, 0, 0] = 5.0  # the best column, and so row 0
    weights[:, 1, 1:] = 4.9  # the largest row overall
    rows, columns = select(weights, 1, "norm", generator())
    assert (rows.tolist(), columns.tolist()) == ([0], [0])


def test_unsquared_norms_depend_on_the_order_of_the_slices():
    """The surprise in the rule: Parseval would make squared norms blind to the order; these are not."""
    weights = torch.zeros(4, 2, 2)
    weights[:, 0, 0] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    weights[:, 0, 1] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    chosen = [select(w, 1, "norm", generator())[1].item() for w in (weights, weights[[0, 2, 1, 3]])]
    assert chosen == [0, 1]


def test_norm_draws_nothing():
    g = generator()
    before = g.get_state()
    select(stack(), 3, "norm", g)
    assert torch.equal(g.get_state(), before)


@pytest.mark.parametrize("rule", RULES)
def test_indices_are_whole_numbers_in_range_and_follow_the_seed(rule):
    rows, columns = select(stack(), 4, rule, generator())
    assert rows.dtype == columns.dtype == torch.int64 and rows.shape == columns.shape == (4,)
    assert set(rows.tolist()) <= set(range(10)) and set(columns.tolist()) <= set(range(7))
    again = select(stack(), 4, rule, generator())
    assert torch.equal(rows, again[0]) and torch.equal(columns, again[1])
    different = {tuple(select(stack(), 4, rule, generator(seed))[1].tolist()) for seed in range(20)}
    assert (len(different) == 1) == (rule == "norm")


@pytest.mark.parametrize("rule", ["norm", "leverage", "uniform"])
def test_all_but_inverse_choose_different_indices(rule):
    rows, columns = select(stack(), 7, rule, generator())
    assert len(set(rows.tolist())) == 7 and sorted(columns.tolist()) == list(range(7))


@pytest.mark.parametrize("shape", [(3, 5, 4), (4, 4, 6), (1, 4, 4)])
def test_leverage_is_summed_over_the_leading_subspaces_of_the_whole_spectrum(shape):
    rank, weights = 2, torch.randn(shape, dtype=torch.float64, generator=generator())
    rows, columns = leverage(weights, rank)
    slices, out, inner = shape
    expected_rows, expected_columns = torch.zeros(out).double(), torch.zeros(inner).double()
    for slice_ in torch.fft.fft(weights, dim=0):
        left, _, right = torch.linalg.svd(slice_)
        expected_rows += left[:, :rank].abs().square().sum(1)
        expected_columns += right[:rank].abs().square().sum(0)
    assert torch.allclose(rows, expected_rows) and torch.allclose(columns, expected_columns)
    assert rows.sum().item() == pytest.approx(slices * rank) == columns.sum().item()


def test_leverage_and_inverse_draw_with_their_probabilities():
    weights = torch.zeros(1, 2, 4).double()
    weights[0, 0] = torch.tensor([3.0, 1.0, 1.0, 1.0])
    weights[0, 1] = 0.1
    drawn = {
        rule: torch.stack([select(weights, 1, rule, generator(seed))[1] for seed in range(4000)]).flatten()
        for rule in ("leverage", "uniform", "inverse")
    }
    share = {rule: torch.bincount(d, minlength=4)[0].item() / 4000 for rule, d in drawn.items()}
    energy = weights.square().sum((0, 1))
    assert share["uniform"] == pytest.approx(1 / 4, abs=0.03)
    assert share["leverage"] == pytest.approx((leverage(weights, 1)[1][0]).item(), abs=0.03)
    assert share["inverse"] == pytest.approx((1 / energy[0] / (1 / energy).sum()).item(), abs=0.03)


def test_inverse_draw_keeps_duplicates_and_draws_every_batch_by_itself():
    energy = torch.tensor([[1e-6, 1.0, 1.0], [1.0, 1.0, 1e-6]])
    drawn = inverse_draw(energy, 50, generator())
    assert (drawn[0] == 0).sum() == 50 and (drawn[1] == 2).sum() == 50


def test_slices_of_equal_energy_do_not_share_their_draws():
    drawn = inverse_draw(torch.ones(2, 1000), 20, generator())
    assert not torch.equal(drawn[0], drawn[1])


def test_of_equal_norms_the_first_are_chosen():
    rows, columns = select(torch.ones(2, 300, 200), 5, "norm", generator())
    assert rows.tolist() == columns.tolist() == [0, 1, 2, 3, 4]


def test_a_seed_draws_what_it_always_drew():
    """Written down from this code: whoever changes the draws changes the runs that published seeds stand for."""
    drawn = {rule: [t.tolist() for t in select(stack(), 4, rule, generator())] for rule in RULES[1:]}
    assert drawn == {
        "leverage": [[3, 1, 0, 8], [3, 4, 5, 6]],
        "uniform": [[0, 3, 5, 1], [3, 4, 0, 5]],
        "inverse": [[8, 5, 2, 7], [2, 3, 0, 0]],
    }


def test_inverse_draw_survives_dead_weights():
    drawn = inverse_draw(torch.tensor([1.0, 0.0, 2.0, 0.0]), 100, generator())
    assert set(drawn.tolist()) == {1, 3}
    assert inverse_draw(torch.zeros(3), 4, generator()).shape == (4,)


@pytest.mark.parametrize("row_rule", RULES)
@pytest.mark.parametrize("rule", RULES)
def test_rows_may_have_a_rule_of_their_own(rule, row_rule):
    rows, columns = select(stack(), 3, rule, generator(), row_rule)
    assert rows.max() < 10 and columns.max() < 7 and len(rows) == len(columns) == 3
    if rule == "norm":
        assert torch.equal(columns, select(stack(), 3, "norm", generator())[1])
    if row_rule == "norm":  # of the chosen columns, however chosen
        spectrum = torch.fft.fft(stack(), dim=0)
        beta = [sum(spectrum[k, i, columns].norm().item() for k in range(6)) for i in range(10)]
        assert rows.tolist() == sorted(range(10), key=lambda i: -beta[i])[:3]
    else:  # drawn first, hence as if columns had the same rule
        assert torch.equal(rows, select(stack(), 3, row_rule, generator())[0])


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="choose from norm, leverage, uniform, inverse"):
        select(stack(), 2, "largest", generator())
