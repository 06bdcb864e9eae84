"""LoRA-PT against a slow, literal transcription of its definition."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg.adapters.lora_pt import LoRAPT
from tcurlora_seg.adapters.stacks import Slot, Stack


def make(n: int, out: int = 9, inner: int = 7, rank: int = 2, seed: int = 0) -> tuple[LoRAPT, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    weights = torch.randn(n, out, inner, generator=g, dtype=torch.float64)
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, out) for i in range(n)), tuple(range(n)), ("a",), 1, out, inner)
    return LoRAPT(stack, weights, rank=rank, generator=g), weights


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_delta_and_the_update_are_the_triple_t_product_less_the_leading_tensor_svd(n):
    adapter, weights = make(n, out=40, inner=30)
    whole = torch.fft.fft(weights, dim=0)
    leading = []
    for slice_ in whole:
        U, S, Vh = torch.linalg.svd(slice_)
        leading.append((U[:, :2] * S[:2]) @ Vh[:2])
    principal = torch.fft.ifft(torch.stack(leading), dim=0)
    assert principal.imag.abs().max() < 1e-12
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float64)
    U, S, V = (p.detach() for p in (adapter.U, adapter.S, adapter.V))
    x = torch.randn(2, 2, 30, dtype=torch.float64)
    updates = adapter.updates(list(range(n)), x, [x] * n, list(weights))
    for i in range(n):
        expected = -principal.real[i]
        for j in range(n):
            for k in range(n):
                for m in range(n):
                    if (j + k + m) % n == i:
                        expected = expected + U[j] @ torch.diag(S[k]) @ V[m]
        assert torch.allclose(adapter.delta(i, weights[i]), expected, rtol=0, atol=1e-10)
        assert torch.allclose(updates[i], x @ expected.T, rtol=0, atol=1e-9)


def test_the_start_is_stored_and_another_bases_is_not_computed_again():
    adapter, weights = make(4)
    assert set(adapter.state_dict()) == {"U", "S", "V", "start_U", "start_S", "start_V"}
    with torch.no_grad():
        adapter.U += 1
    twin, _ = make(4, seed=1)
    twin.load_state_dict(adapter.state_dict())
    twin.gather(weights)
    assert torch.equal(twin.delta(1, weights[1]), adapter.delta(1, weights[1]))


@pytest.mark.parametrize("tokens", [3, 2000])
def test_the_difference_is_exact_at_the_start_in_either_form(tokens):
    adapter, weights = make(6, out=24, inner=24)
    adapter.float()
    x = torch.randn(tokens, 24)
    assert not any(u.any() for u in adapter.updates([0, 1, 2], x, [x] * 3, list(weights[:3].float())))
    assert not adapter.delta(0, weights[0]).any()


def test_the_papers_network_trains_165960_r_numbers():
    total = 0
    for n, out, inner in ((48, 768, 768), (12, 3072, 768), (12, 768, 3072)):
        slots = tuple(Slot(i, "a", f"layer{i}", 0, out) for i in range(n))
        stack = Stack(slots, tuple(range(n)), ("a",), 12, out, inner)
        adapter = LoRAPT(stack, torch.empty(n, out, inner, device="meta"), rank=3, generator=torch.Generator())
        total += sum(p.numel() for p in adapter.parameters())
    assert total == 165_960 * 3
