"""LoTR against a slow, literal transcription of its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcurlora_seg.adapters.lotr import LoTR
from tcurlora_seg.adapters.stacks import Slot, Stack

STACK = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 5)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6, 2.0)])
def test_delta_is_alpha_over_r_times_a_core_between_shared_factors(alpha, scale):
    weights = torch.zeros(2, 6, 5).double()
    adapter = LoTR(STACK, weights, rank=3, alpha=alpha, generator=torch.Generator().manual_seed(0))
    for s in range(2):
        nn.init.normal_(adapter.cores[s])
        expected = torch.zeros(6, 5).double()
        for o in range(6):
            for i in range(5):
                for p in range(3):
                    for q in range(3):
                        factors = adapter.A[o, p], adapter.cores[s][p, q], adapter.B[q, i]
                        expected[o, i] += scale * factors[0].item() * factors[1].item() * factors[2].item()
        assert torch.allclose(adapter.delta(s, weights[s]), expected, rtol=0, atol=1e-12)


def test_the_factors_are_standard_normal_and_the_cores_zero():
    stack = Stack((Slot(0, "a", "layer", 0, 600),), (0,), ("a",), 1, 600, 500)
    adapter = LoTR(stack, torch.zeros(1, 600, 500), rank=4, generator=torch.Generator().manual_seed(0))
    for factor in (adapter.A, adapter.B):
        assert abs(factor.mean().item()) < 0.1 and factor.std().item() == pytest.approx(1, rel=0.05)
    assert not adapter.cores[0].any()
