"""LoRA against a slow, literal transcription of its definition."""

from __future__ import annotations

import math

import pytest
import torch

from tcurlora_seg import adapt
from tcurlora_seg.adapters.lora import LoRA
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError

STACK = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 400)


def make(**options) -> LoRA:
    g = torch.Generator().manual_seed(0)
    return LoRA(STACK, torch.zeros(2, 6, 400, dtype=torch.float64), generator=g, **{"rank": 4, **options})


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (4, 1.0), (16, 4.0), (1, 0.25)])
def test_delta_is_alpha_over_r_times_b_a(alpha, scale):
    adapter = make(alpha=alpha)
    for s in range(2):
        torch.nn.init.normal_(adapter.B[s])
        expected = torch.zeros(6, 400, dtype=torch.float64)
        for a in range(6):
            for p in range(4):
                expected[a] += scale * adapter.B[s][a, p].item() * adapter.A[s][p].detach()
        assert torch.allclose(adapter.delta(s, torch.zeros(6, 400)), expected, rtol=0, atol=1e-12)


def test_a_starts_kaiming_uniform_and_b_at_zero():
    """Kaiming with a = sqrt 5 is uniform within 1 / sqrt(in), of standard deviation 1 / sqrt(3 in)."""
    adapter = make()
    for a, b in zip(adapter.A, adapter.B, strict=True):
        assert not b.any()
        assert a.abs().max() <= 1 / math.sqrt(400) and a.abs().max() > 0.98 / math.sqrt(400)
        assert a.std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.05)
    assert not torch.equal(adapter.A[0], adapter.A[1])


def test_dropout_falls_on_the_adapters_input_while_training_only():
    adapter = make(dropout=0.5)
    with torch.no_grad():
        adapter.A[0].fill_(1.0)
        adapter.B[0].fill_(1.0)
    x = torch.ones(50, 400, dtype=torch.float64)
    weight = torch.zeros(6, 400, dtype=torch.float64)
    adapter.eval()
    assert torch.equal(adapter.updates([0], x, [x @ weight.T], [weight])[0], torch.full((50, 6), 1600.0).double())
    adapter.train()
    dropped = adapter.updates([0], x, [x @ weight.T], [weight])[0]
    assert len(set(dropped[:, 0].tolist())) > 10 and dropped.mean().item() == pytest.approx(1600, rel=0.05)
    assert torch.equal(adapter.delta(0, weight), torch.full((6, 400), 4.0).double())


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_leaves_nothing_or_less_is_refused(dropout):
    with pytest.raises(UserError, match=rf"dropout={dropout} must be at least 0 and below 1"):
        make(dropout=dropout)


def test_one_a_serves_q_k_and_v_of_the_fused_matrix(tiny):
    model = adapt(tiny, "lora", rank=4)
    assert model.adapters["qkv"].A[0].shape == (4, 24) and model.adapters["qkv"].B[0].shape == (72, 4)


@pytest.mark.parametrize("rank", [0, 25])
def test_a_rank_that_no_matrix_can_have_is_refused(rank, tiny):
    with pytest.raises(UserError, match=f"rank={rank} "):
        adapt(tiny, "lora", rank=rank)
