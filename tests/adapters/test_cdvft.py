"""CDVFT against a slow, literal transcription of its definition."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg import adapt
from tcurlora_seg.adapters.cdvft import CDVFT
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError


def make(out: int, inner: int, **options) -> CDVFT:
    g = torch.Generator().manual_seed(0)
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, out) for i in range(2)), (0, 1), ("a",), 1, out, inner)
    adapter = CDVFT(stack, torch.zeros(2, out, inner, dtype=torch.float64), generator=g, **options)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return adapter


@pytest.mark.parametrize(
    ("out", "inner", "size", "blocks"),
    [(6, 6, None, (1, 1, 6)), (12, 6, None, (2, 1, 6)), (6, 12, None, (1, 2, 6)), (7, 9, 4, (2, 3, 4))],
)
def test_delta_is_diagonal_circulant_diagonal_and_so_is_the_update(out, inner, size, blocks):
    adapter = make(out, inner, alpha=1.5, block_size=size)
    x = torch.randn(3, inner, dtype=torch.float64)
    for s in range(2):
        a1, c, a3 = adapter.a1[s].tolist(), adapter.c[s].detach(), adapter.a3[s].tolist()
        assert tuple(c.shape) == blocks
        p = blocks[2]
        expected = torch.zeros(out, inner, dtype=torch.float64)
        for i in range(out):
            for j in range(inner):
                entry = c[i // p, j // p, (i % p - j % p) % p].item()
                expected[i, j] = 1.5 * a3[i] * entry * a1[j]
        weight = torch.zeros(out, inner, dtype=torch.float64)
        assert torch.allclose(adapter.delta(s, weight), expected, rtol=0, atol=1e-12)
        (update,) = adapter.updates([s], x, [x @ weight.T], [weight])
        assert torch.allclose(update, x @ expected.T, rtol=0, atol=1e-12)


def test_the_circulant_starts_at_zero_between_identities(tiny):
    adapter = adapt(tiny, "cdvft").adapters["up"]
    assert not any(c.any() for c in adapter.c)
    assert all(torch.equal(a, torch.ones_like(a)) for a in [*adapter.a1, *adapter.a3])


@pytest.mark.parametrize("size", [0, 49])
def test_a_block_that_no_matrix_can_have_is_refused(size, tiny):
    with pytest.raises(UserError, match=f"block_size={size} is not possible for the .* choose 1 to"):
        adapt(tiny, "cdvft", block_size=size)
