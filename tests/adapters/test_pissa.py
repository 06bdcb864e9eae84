"""PiSSA against a slow, literal transcription of its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcurlora_seg import adapt
from tcurlora_seg.adapters.pissa import PiSSA
from tcurlora_seg.adapters.stacks import Slot, Stack


def make(core: bool, shape: tuple[int, int] = (6, 5), rank: int = 3) -> tuple[PiSSA, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, shape[0]) for i in range(2)), (0, 1), ("a",), 1, *shape)
    return PiSSA(stack, weights, rank=rank, core=core, generator=g), weights


@pytest.mark.parametrize("core", [False, True])
def test_what_trains_starts_at_the_leading_part_of_the_weight_and_delta_is_what_it_moved(core):
    adapter, weights = make(core)
    for s in range(2):
        u, values, v = torch.linalg.svd(weights[s])
        leading = sum(values[p] * torch.outer(u[:, p], v[p]) for p in range(3))
        for parameter in (adapter.A[s], adapter.B[s], *([adapter.M[s]] if core else [])):
            nn.init.normal_(parameter)
        now = torch.zeros(6, 5).double()
        for p in range(3):
            for q in range(3):
                between = adapter.M[s][p, q].item() if core else float(p == q)
                now += between * torch.outer(adapter.B[s][:, p], adapter.A[s][q]).detach()
        assert torch.allclose(adapter.delta(s, weights[s]), now - leading, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (7, 7)])
def test_the_start_halves_the_singular_values_or_holds_them_in_the_core(shape):
    pair, weights = make(False, shape)
    cored, _ = make(True, shape)
    for s in range(2):
        values = torch.linalg.svdvals(weights[s])[:3]
        assert torch.allclose(pair.B[s].mT @ pair.B[s], values.diag(), atol=1e-10)
        assert torch.allclose(pair.A[s] @ pair.A[s].mT, values.diag(), atol=1e-10)
        assert torch.allclose(cored.B[s].mT @ cored.B[s], torch.eye(3).double(), atol=1e-10)
        assert torch.allclose(cored.A[s] @ cored.A[s].mT, torch.eye(3).double(), atol=1e-10)
        assert torch.allclose(cored.M[s], values.diag(), atol=1e-10)


@pytest.mark.parametrize("core", [False, True])
def test_half_precision_keeps_a_change_that_is_small_beside_the_start(core, distance):
    adapter, weights = make(core, (40, 40))
    adapter.float()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    x, weight = torch.randn(50, 40, generator=torch.Generator().manual_seed(2)), weights[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        (fast,) = adapter.updates([0], x, [x @ weight.T], [weight])
    assert distance(fast.float(), x @ adapter.delta(0, weight).T) < 0.02


def test_the_start_is_stored_with_what_trained(tiny):
    state = adapt(tiny, "pissa", rank=2).adapters["up"].state_dict()
    assert {"A0", "B0", "M0"} <= set(state)
    assert torch.equal(state["A0"][3], state["A.3"])
