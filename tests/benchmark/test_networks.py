from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from tcurlora_seg.benchmark.networks import contestant
from tcurlora_seg.benchmark.setting import Setting
from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.models.trainable import trainable_parameters

MODEL = OmegaConf.to_container(OmegaConf.load(config_folder() / "model" / "unetr_tiny.yaml"))


def _network(method, rank=3):
    torch.manual_seed(0)
    return contestant(MODEL, Setting(method=method, rank=rank, side=32))


def test_rebuilding_every_step_computes_what_the_adapter_does(image, stir, distance):
    ours, rebuilt = stir(_network("tcurlora")), stir(_network("rebuilt"))
    assert distance(rebuilt(image), ours(image)) < 1e-5
    for network in (ours, rebuilt):
        network(image).square().sum().backward()
    for one, other in zip(ours.adapters.parameters(), rebuilt.adapters.parameters(), strict=True):
        assert distance(other.grad, one.grad) < 1e-4


def test_at_the_floor_the_gradient_passes_the_whole_transformer_and_the_decoder_alone_trains(image):
    network, seen = _network("floor", None), []
    network.vit.blocks[0].register_full_backward_hook(lambda module, inputs, outputs: seen.append(inputs[0].norm()))
    network(image).sum().backward()
    assert seen and float(seen[0]) > 0
    assert {name.split(".")[0] for name in trainable_parameters(network)} == {
        "decoder5", "decoder4", "decoder3", "decoder2", "out"
    }  # fmt: skip


def test_pefts_lora_trains_as_many_numbers_as_ours_on_the_same_linears():
    pytest.importorskip("peft")
    counts = [sum(p.numel() for p in trainable_parameters(_network(m, 4)).values()) for m in ("lora", "peft_lora")]
    assert counts[0] == counts[1]
