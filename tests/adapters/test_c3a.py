"""C3A against a slow, literal transcription of its definition, and against PEFT."""

from __future__ import annotations

import copy

import pytest
import torch

from tcurlora_seg import adapt
from tcurlora_seg.adapters.c3a import C3A
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError


def test_delta_repeats_the_first_row_of_each_block_one_further_right():
    g = torch.Generator().manual_seed(0)
    out, inner, p = 8, 12, 4
    stack = Stack((Slot(0, "a", "layer", 0, out),), (0,), ("a",), 1, out, inner)
    adapter = C3A(stack, torch.zeros(1, out, inner, dtype=torch.float64), block_size=p, generator=g)
    w = torch.randn(2, 3, p, generator=g, dtype=torch.float64)
    with torch.no_grad():
        adapter.rows[0].copy_(w)
    expected = torch.zeros(out, inner, dtype=torch.float64)
    for i in range(out):
        for j in range(inner):
            expected[i, j] = w[i // p, j // p, (j % p - i % p) % p] / inner
    weight, x = torch.zeros(out, inner, dtype=torch.float64), torch.randn(5, inner, dtype=torch.float64)
    assert torch.allclose(adapter.delta(0, weight), expected, rtol=0, atol=1e-14)
    assert torch.allclose(adapter.updates([0], x, [x @ weight.T], [weight])[0], x @ expected.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((768, 768), 256), ((3072, 768), 256), ((48, 24), 8), ((20, 10), 10)])
def test_the_block_is_a_third_of_what_divides_both_sides(shape, size):
    stack = Stack((Slot(0, "a", "layer", 0, shape[0]),), (0,), ("a",), 1, *shape)
    adapter = C3A(stack, torch.empty(1, *shape, device="meta"), generator=torch.Generator())
    assert adapter.rows[0].shape == (shape[0] // size, shape[1] // size, size)


@pytest.mark.parametrize("size", [0, 5, 48])
def test_a_block_that_does_not_divide_is_refused(size, tiny):
    with pytest.raises(UserError, match=rf"block_size={size} does not divide both sides .* choose a divisor of 24"):
        adapt(tiny, "c3a", block_size=size)


def test_outputs_and_gradients_equal_pefts(tiny, image, stir, distance):
    """One active adapter: with several, PEFT feeds the output of one to the next.

    Outputs on the whole network; gradients layer by layer, and the input's against PEFT's own matrix, since the input
    gradient that PEFT 0.21.2 writes by hand is not that of its forward pass (it correlates where it should convolve).
    """
    peft = pytest.importorskip("peft")
    ours = stir(adapt(copy.deepcopy(tiny), "c3a", block_size=12), size=1.0)
    names = ["attn.qkv", "attn.out_proj", "mlp.linear1", "mlp.linear2"]
    theirs = peft.inject_adapter_in_model(peft.C3AConfig(block_size=12, target_modules=names), tiny)
    pairs = []
    for name, stack in ours.stacks.items():
        for slot, rows in zip(stack.slots, ours.adapters[name].rows, strict=True):
            layer = theirs.get_submodule(slot.linear)
            layer.c3a_kernel["default"].data.copy_(rows)
            pairs.append((ours.get_submodule(slot.linear), rows, layer, layer.c3a_kernel["default"]))
    assert len(pairs) == 48 and distance(ours(image), theirs(image)) < 1e-5
    for mine, rows, layer, kernel in pairs[::7]:
        x = torch.randn(2, 9, mine.in_features, generator=torch.Generator().manual_seed(1), requires_grad=True)
        output, expected = mine(x), layer(x)
        assert distance(output, expected) < 1e-5
        signs = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
        gradients = torch.autograd.grad((output * signs).sum(), [x, rows])
        assert distance(gradients[0], signs @ (mine.weight + layer.get_delta_weight("default"))) < 1e-5
        assert distance(gradients[1], torch.autograd.grad((expected * signs).sum(), kernel)[0]) < 1e-5
