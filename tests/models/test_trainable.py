"""Globs over parameter paths, and what they let train."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg import adapt
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.trainable import expand, set_trainable, trainable_parameters

NAMES = [
    "vit.blocks.0.mlp.a",
    "vit.blocks.1.mlp.a",
    "vit.blocks.1.attn.a",
    "decoder5.a.b",
    "decoder4.b",
    "out.c",
    "xout.c",
]


@pytest.mark.parametrize(
    ("patterns", "matched"),
    [
        (["decoder*.**"], {"decoder5.a.b", "decoder4.b"}),
        (["decoder*.*"], {"decoder4.b"}),
        (["out.**"], {"out.c"}),
        (["vit.blocks.*.mlp.**"], {"vit.blocks.0.mlp.a", "vit.blocks.1.mlp.a"}),
        (["vit.**.a"], {"vit.blocks.0.mlp.a", "vit.blocks.1.mlp.a", "vit.blocks.1.attn.a"}),
        (["out.c", "decoder4.b"], {"out.c", "decoder4.b"}),
        (["**"], set(NAMES)),
        ([], set()),
    ],
)
def test_one_star_stops_at_a_dot_and_two_do_not(patterns, matched):
    assert expand(patterns, NAMES) == matched


@pytest.mark.parametrize("pattern", ["decoder9.**", "*", "out", "vit.*.a", "ou[t].c", "out?c", "Out.c"])
def test_a_glob_that_matches_nothing_is_refused_even_beside_one_that_does(pattern):
    with pytest.raises(UserError) as caught:
        expand(["out.c", pattern], NAMES)
    assert f"trainable: '{pattern}' matches no parameter" in str(caught.value)


def test_only_what_is_matched_trains(tiny):
    set_trainable(tiny, ["decoder5.**", "vit.norm.*"], set())
    expected = {n for n, _ in tiny.named_parameters() if n.startswith(("decoder5.", "vit.norm."))}
    assert set(trainable_parameters(tiny)) == expected


def test_everything_is_everything_but_what_the_network_never_uses(tiny):
    set_trainable(tiny, ["**"], set())
    assert all("norm_cross_attn" in n for n, p in tiny.named_parameters() if not p.requires_grad)
    with pytest.raises(UserError, match="matches no parameter"):
        set_trainable(tiny, ["vit.blocks.*.norm_cross_attn.*"], set())


@pytest.mark.parametrize("pattern", ["**", "vit.blocks.3.attn.qkv.weight", "vit.**.weight"])
def test_a_weight_under_an_adapter_cannot_train(pattern, tiny, image):
    before = {name: p.requires_grad for name, p in tiny.named_parameters()}
    with pytest.raises(UserError, match=r"would train vit\.blocks\.\d+\.attn\.qkv\.weight"):
        adapt(tiny, "tcurlora", rank=2, trainable=[pattern], stacks={"q": {"roles": ["q"]}})
    assert not hasattr(tiny, "adapters")
    assert before == {name: p.requires_grad for name, p in tiny.named_parameters()}


def test_the_bias_beside_an_adapted_weight_can_train(tiny, image):
    model = adapt(tiny, "tcurlora", rank=2, trainable=["vit.blocks.*.mlp.linear1.bias", "out.**"])
    model(image).square().sum().backward()
    gradient = model.get_parameter("vit.blocks.2.mlp.linear1.bias").grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.any()
