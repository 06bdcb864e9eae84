"""Building the network, and what its parts are called."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.unetr import BACKBONE, POSITIONS


def test_the_output_has_the_inputs_size_and_a_channel_per_class(build, image):
    assert build(out_channels=3)(image).shape == (1, 3, 32, 32, 32)
    assert build(in_channels=4, img_size=[32, 48, 64])(torch.randn(1, 4, 32, 48, 64)).shape == (1, 2, 32, 48, 64)


def test_a_parameter_is_frozen_exactly_if_the_output_does_not_depend_on_it(tiny, image):
    tiny(image).square().sum().backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == (not BACKBONE.is_unused(name)), name
    assert sum(BACKBONE.is_unused(name) for name, _ in tiny.named_parameters()) == 24


def test_the_named_parts_exist_and_are_what_they_are_called(build):
    one, two = build(), build(in_channels=2, out_channels=5, img_size=[32, 64, 48])
    differing = {
        name for name, p in one.named_parameters() if p.shape != two.get_parameter(name).shape
    }  # fmt: skip
    assert differing == {POSITIONS, *BACKBONE.inputs, *BACKBONE.head}


def test_stale_names_are_those_of_the_unused_cross_attention_alone():
    for name in ("vit.blocks.11.cross_attn.to_q.weight", "vit.blocks.0.cross_attn.out_proj.bias"):
        assert BACKBONE.is_stale(name)
    block = "vit.blocks.0"
    for name in (f"{block}.norm_cross_attn.weight", f"{block}.cross_attn.extra.weight", "cross_attn.to_q.weight",
                 f"{block}.attn.qkv.weight", f"x.{block}.cross_attn.to_q.weight"):  # fmt: skip
        assert not BACKBONE.is_stale(name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"img_size": [32, 40, 32]}, r"img_size=\[32, 40, 32\].*multiple of 16"),
        ({"img_size": [16, 32, 32]}, "at least 32"),
        ({"img_size": [32, 32]}, "three sides"),
        ({"hidden_size": 25}, "hidden_size=25 must be a multiple of model.num_heads=2"),
        ({"mlp_dim": 0}, "mlp_dim=0"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"in_channels": -1}, "in_channels=-1"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0"),
    ],
)
def test_a_size_that_cannot_be_is_refused(changes, words, build):
    with pytest.raises(UserError, match=words):
        build(**changes)


@pytest.mark.parametrize(
    ("name", "count"), [("unetr", 93_029_602), ("unetr_small", 6_292_114), ("unetr_tiny", 316_258)]
)
def test_a_model_file_builds_a_network_of_known_size(name, count):
    with torch.device("meta"):
        model = instantiate(OmegaConf.load(config_folder() / "model" / f"{name}.yaml"))
    assert sum(p.numel() for p in model.parameters()) == count
