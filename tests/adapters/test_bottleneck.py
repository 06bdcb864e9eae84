"""The bottleneck adapter against a slow, literal transcription of its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tcurlora_seg.adapters.bottleneck import Bottleneck
from tcurlora_seg.adapters.stacks import Slot, Stack

STACK = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 5)


def test_the_detour_sees_the_output_with_its_bias():
    g = torch.Generator().manual_seed(0)
    weights, bias, x = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, 6, 5), (6,), (4, 5)))
    adapter = Bottleneck(STACK, weights, rank=3, generator=g)
    for s in range(2):
        nn.init.normal_(adapter.B[s])
        for b in (bias, None):
            expected = torch.zeros(4, 6).double()
            for t in range(4):
                y = weights[s] @ x[t] + (0 if b is None else b)
                expected[t] = y
                for p in range(3):
                    expected[t] += adapter.B[s][:, p].detach() * sum(adapter.A[s][p, o].item() * y[o] for o in range(6))
            shift = adapter.bias_delta(s, b)
            total = x @ (weights[s] + adapter.delta(s, weights[s])).T
            total = total + (0 if b is None else b + shift)
            assert torch.allclose(total, expected, rtol=0, atol=1e-12)
            assert (shift is None) == (b is None)


def test_a_starts_xavier_uniform_and_b_at_zero():
    stack = Stack((Slot(0, "a", "layer", 0, 400),), (0,), ("a",), 1, 400, 5)
    adapter = Bottleneck(stack, torch.zeros(1, 400, 5), rank=4, generator=torch.Generator().manual_seed(0))
    bound = math.sqrt(6 / 404)
    assert 0.98 * bound < adapter.A[0].abs().max() <= bound and not adapter.B[0].any()
    assert adapter.A[0].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
