"""DoRA against a slow, literal transcription of its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcurlora_seg.adapters.dora import DoRA
from tcurlora_seg.adapters.stacks import Slot, Stack

STACK = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 5)


def make(alpha: float | None = None) -> tuple[DoRA, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 6, 5, generator=g, dtype=torch.float64)
    return DoRA(STACK, weights, rank=3, alpha=alpha, generator=g), weights


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6, 2.0)])
def test_rows_are_turned_by_lora_and_stretched_to_their_magnitudes(alpha, scale):
    adapter, weights = make(alpha)
    for s in range(2):
        nn.init.normal_(adapter.B[s])
        nn.init.normal_(adapter.magnitude[s])
        for o in range(6):
            row = weights[s, o].clone()
            for p in range(3):
                row += scale * adapter.B[s][o, p].item() * adapter.A[s][p].detach()
            length = sum(v.item() ** 2 for v in row) ** 0.5
            expected = adapter.magnitude[s][o].item() * row / length - weights[s, o]
            assert torch.allclose(adapter.delta(s, weights[s])[o], expected, rtol=0, atol=1e-12)


def test_magnitudes_start_at_the_rows_norms():
    adapter, weights = make()
    for s in range(2):
        for o in range(6):
            assert adapter.magnitude[s][o].item() == pytest.approx(sum(v.item() ** 2 for v in weights[s, o]) ** 0.5)


def test_no_gradient_passes_through_the_norm():
    """At the start dL/dB = dL/dW' A', without the part that a norm with gradient would take off."""
    adapter, weights = make()
    signs = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (adapter.delta(0, weights[0]) * signs).sum().backward()
    assert torch.allclose(adapter.B[0].grad, signs @ adapter.A[0].mT.detach(), atol=1e-12)


def test_a_row_of_zeros_does_no_harm():
    weights = torch.zeros(2, 6, 5)
    adapter = DoRA(STACK, weights, rank=2, generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 5)
    (update,) = adapter.updates([0], x, [x @ weights[0].T], [weights[0]])
    assert not adapter.delta(0, weights[0]).any() and not update.any()
    update.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in (adapter.A[0], adapter.B[0], adapter.magnitude[0]))
