"""ARENA against a slow, literal transcription of its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcurlora_seg import adapt
from tcurlora_seg.adapters.arena import ARENA
from tcurlora_seg.adapters.base import after_step
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError

STACK = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 5)


def make(**options) -> ARENA:
    g = torch.Generator().manual_seed(0)
    return ARENA(STACK, torch.zeros(2, 6, 5).double(), generator=g, **{"rank": 4, **options})


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (8, 2.0)])
def test_delta_is_alpha_over_r_times_b_diag_e_a(alpha, scale):
    adapter = make(alpha=alpha)
    for s in range(2):
        nn.init.normal_(adapter.B[s])
        nn.init.normal_(adapter.E[s])
        expected = torch.zeros(6, 5).double()
        for k in range(4):
            expected += scale * adapter.E[s][k].item() * torch.outer(adapter.B[s][:, k], adapter.A[s][k]).detach()
        assert torch.allclose(adapter.delta(s, torch.zeros(6, 5)), expected, rtol=0, atol=1e-12)


def test_the_start_has_ones_on_the_diagonal_and_zeros_in_b():
    adapter = make()
    for a, b, e in zip(adapter.A, adapter.B, adapter.E, strict=True):
        assert not b.any() and (e == 1).all() and 0.5 / 5**0.5 < a.abs().max() <= 1 / 5**0.5


def test_the_proximal_step_shrinks_towards_zero_by_rate_times_sparsity():
    adapter = make(sparsity=3.0)
    values = torch.tensor([1.0, -0.5, 0.2, -0.25]).double()
    adapter.E[0].data.copy_(values)
    after_step([adapter], 1, 10, 0.1)
    expected = [max(abs(v) - 0.3, 0) * (1 if v > 0 else -1) for v in values.tolist()]
    assert adapter.E[0].tolist() == pytest.approx(expected) and adapter.E[1].tolist() == pytest.approx([0.7] * 4)
    assert adapter.ranks() == [2, 4]


def test_a_rank_that_reached_zero_stays_out_whatever_moves_it():
    adapter = make(sparsity=3.0)
    adapter.E[0].data[2] = 0.2
    after_step([adapter], 1, 10, 0.1)
    adapter.E[0].data[2] = 5.0
    nn.init.normal_(adapter.B[0])
    rest = adapter.delta(0, torch.zeros(6, 5))
    x = torch.eye(5).double()
    assert torch.allclose(adapter.updates([0], x, [], [])[0].T, rest)
    expected = adapter.B[0][:, [0, 1, 3]] * adapter.E[0][[0, 1, 3]] @ adapter.A[0][[0, 1, 3]]
    assert torch.allclose(rest, expected, atol=1e-12)
    after_step([adapter], 2, 10, 0.0)
    assert adapter.E[0][2] == 0 and adapter.ranks() == [3, 4]


@pytest.mark.parametrize("useful", [True, False])
def test_with_the_defaults_ranks_that_are_needed_stay_and_useless_ones_go(useful):
    g, steps = torch.Generator().manual_seed(0), 2000
    target = torch.randn(16, 2, generator=g) @ torch.randn(2, 16, generator=g)
    stack = Stack((Slot(0, "a", "layer", 0, 16),), (0,), ("a",), 1, 16, 16)
    adapter = ARENA(stack, torch.zeros(1, 16, 16), rank=8, generator=g)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(1, steps + 1):
        x = torch.randn(32, 16, generator=g)
        goal = x @ target.T if useful else torch.randn(32, 16, generator=g)
        optimizer.zero_grad()
        (adapter.updates([0], x, [], [])[0] - goal).square().mean().backward()
        optimizer.step()
        after_step([adapter], step, steps, schedule.get_last_lr()[0])
        schedule.step()
    if useful:
        assert adapter.ranks()[0] >= 2
        assert (adapter.delta(0, torch.zeros(16, 16)) - target).norm() < 0.05 * target.norm()
    else:
        assert adapter.ranks() == [0]


@pytest.mark.parametrize(("options", "words"), [({"rank": 25}, "rank=25 "), ({"sparsity": -1.0}, "sparsity=-1.0")])
def test_what_cannot_be_is_refused(options, words, tiny):
    with pytest.raises(UserError, match=words):
        adapt(tiny, "arena", **{"rank": 4, **options})
