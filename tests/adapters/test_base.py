"""What every adapter inherits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tcurlora_seg.adapters.base import Adapter, after_step, penalty, scale_of
from tcurlora_seg.errors import UserError


class Doubling(Adapter):
    """delta = strength (index + 1) W."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.ones(()))

    def delta(self, index, weight):
        assert not torch.is_autocast_enabled("cpu")
        return self.strength * (index + 1) * weight


@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, math.inf])
def test_a_scale_is_alpha_over_rank_and_above_zero(alpha):
    assert (scale_of(None, 4), scale_of(8, 4), scale_of(2.0)) == (1.0, 2.0, 2.0)
    with pytest.raises(UserError, match=r"alpha=.*above 0"):
        scale_of(alpha)


def test_updates_apply_delta_to_the_input_one_slice_after_another():
    x, weights = torch.randn(2, 3, 5), [torch.randn(4, 5), torch.randn(4, 5)]
    ys = [x @ w.T for w in weights]
    updates = Doubling().updates([2, 0], x, ys, weights)
    assert torch.allclose(updates[0], 3 * ys[0], atol=1e-5) and torch.allclose(updates[1], ys[1], atol=1e-5)


def test_delta_is_computed_outside_autocast_and_applied_within():
    x, weight = torch.randn(2, 5), torch.randn(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        (update,) = Doubling().updates([0], x, [x @ weight.T], [weight])
    assert update.dtype == torch.bfloat16


def test_an_adapter_neither_regularises_nor_acts_after_a_step_unless_it_says_so():
    adapter = Doubling()
    after_step([adapter], 1, 10, 0.1)
    assert adapter.strength == 1 and penalty([adapter]) == 0
    assert adapter.bias_delta(0, None) is None and adapter.ranks() is None
