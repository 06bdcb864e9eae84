"""SSF against a slow, literal transcription of its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcurlora_seg import adapt, merge
from tcurlora_seg.adapters.ssf import SSF
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError

STACK = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 6) for i in range(2)), (0, 1), ("a",), 1, 6, 5)


def test_every_output_is_scaled_and_shifted():
    torch.manual_seed(0)
    weights, bias, x = torch.randn(2, 6, 5).double(), torch.randn(6).double(), torch.randn(4, 5).double()
    adapter = SSF(STACK, weights, generator=torch.Generator())
    for s in range(2):
        nn.init.normal_(adapter.scale[s])
        nn.init.normal_(adapter.shift[s])
        for b in (bias, None):
            expected = torch.zeros(4, 6).double()
            for t in range(4):
                for o in range(6):
                    y = sum(weights[s, o, i] * x[t, i] for i in range(5)) + (0 if b is None else b[o])
                    expected[t, o] = adapter.scale[s][o].item() * y + adapter.shift[s][o].item()
            total = x @ (weights[s] + adapter.delta(s, weights[s])).T
            total = total + (0 if b is None else b) + adapter.bias_delta(s, b)
            assert torch.allclose(total, expected, rtol=0, atol=1e-12)


def test_a_layernorms_vectors_are_scaled_and_shifted(tiny, image, stir, distance):
    """Slice by slice through a block's first norm, then the whole network against its merged form."""
    before = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    model = stir(adapt(tiny, "ssf"), size=0.1)
    block, x = model.vit.blocks[3], torch.randn(1, 8, 24)
    adapter = model.adapters["norm1"]
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    y = normed * before["vit.blocks.3.norm1.weight"] + before["vit.blocks.3.norm1.bias"]
    assert distance(block.norm1(x), adapter.scale[3] * y + adapter.shift[3]) < 1e-6
    plain = merge(model)
    assert type(plain.vit.norm) is nn.LayerNorm and distance(plain(image), model(image)) < 1e-5
    assert torch.equal(plain.vit.norm.bias, model.vit.norm.merged()[1])


def test_the_last_norm_is_adapted_once_whatever_the_blocks(tiny):
    model = adapt(tiny, "ssf", blocks=[1, 4])
    assert [s.linear for s in model.stacks["norm"].slots] == ["vit.norm"]
    assert [s.linear for s in model.stacks["norm2"].slots] == ["vit.blocks.1.norm2", "vit.blocks.4.norm2"]


def test_blocks_without_a_shift_get_a_bias_of_zeros_so_that_the_plain_network_has_one_form(tiny, image, stir):
    plain = merge(stir(adapt(tiny, "ssf", blocks=[1])))
    biases = [block.attn.qkv.bias for block in plain.vit.blocks]
    assert biases[1].any() and not any(b.any() for i, b in enumerate(biases) if i != 1)
    assert all(b.requires_grad for b in biases)


def test_a_method_for_matrices_refuses_a_layernorm(tiny):
    with pytest.raises(UserError, match=r"LoRA adapts matrices, but norm1 are the vectors of LayerNorms"):
        adapt(tiny, "lora", rank=2, stacks={"a": {"roles": ["norm1"]}})
