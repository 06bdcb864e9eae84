"""The laws of the contract on networks of every kind: a few methods on all of them, all methods on the foreign one."""

from __future__ import annotations

import copy
from typing import Any

import networks
import pytest
import torch
import torch.nn.functional as F

from tcurlora_seg import adapt, describe, load_model, load_pretrained, merge, merged, save_model
from tcurlora_seg.adapters.base import Adapter, penalty
from tcurlora_seg.config.paths import options
from tcurlora_seg.models.backbone import backbone_of
from tcurlora_seg.models.injection import adapt_from_config, read_adapter
from tcurlora_seg.models.linear import AdaptedLinear
from tcurlora_seg.models.pretrained import save_base
from tcurlora_seg.models.trainable import trainable_parameters

FOREIGN = "a foreign ViT"
OVERRIDES: dict[str, Any] = {
    **{method: {"rank": 4} for method in ("lora", "bottleneck", "dora", "arena")}, "tera": {"scale": 1.0},
}  # fmt: skip
BY_DECODER = {"decoder_only"}  # of which a foreign network has none
FEW = ("tcurlora", "lora", "ssf", "linear")
CASES = [
    *((network, method) for network in networks.NETWORKS[1:3] for method in FEW),
    *((FOREIGN, method) for method in sorted(options("adapter")) if method not in BY_DECODER),
]
every_case = pytest.mark.parametrize(("network", "method"), CASES, ids=[" ".join(case) for case in CASES])


def adapted(model, network, method, **more):
    roles = {"roles": networks.ROLES} if network == FOREIGN else {}
    return adapt(model, method, **{**roles, **OVERRIDES.get(method, {}), **more})


@every_case
def test_a_network_keeps_the_laws(network, method, stir, distance, tmp_path):
    base, image = networks.make(network), networks.picture(network)
    path, twin = save_base_of(base, network, tmp_path), networks.make(network, seed=1)
    for model in (base, twin):
        take(model, network, path)
    with torch.no_grad():
        start = base(image)
    model = adapted(base, network, method)
    with torch.no_grad():
        assert torch.equal(model(image), start), "construction changed the output"

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = trainable_parameters(model)
    optimizer = torch.optim.Adam(trained.values(), lr=1e-2)
    for _ in range(2):
        loss = F.mse_loss(model(image), torch.ones_like(start)) + penalty(model.adapters.values())
        loss.backward()
        optimizer.step()
        grads = {name: p.grad for name, p in model.named_parameters()}
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        assert (grads[name] is not None) == (name in trained) == (not torch.equal(parameter, before[name])), name

    stir(model)
    with torch.no_grad():
        logits = model(image)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with merged(model):
            assert distance(model(image), logits) < 1e-5
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        plain = merge(model)
        assert distance(plain(image), logits) < 1e-5
        assert not any(isinstance(module, AdaptedLinear | Adapter) for module in plain.modules())
        assert torch.equal(copy.deepcopy(model)(image), logits)
        save_model(model, tmp_path / "model.safetensors")
        load_model(adapted(twin, network, method), tmp_path / "model.safetensors")
        assert torch.equal(twin(image), logits)


def save_base_of(base, network, folder):
    """Store the base; a foreign one must be described first."""
    if network == FOREIGN:
        describe(base, networks.ROLES)
    return save_base(base, folder)


def take(model, network, path):
    if network == FOREIGN:
        describe(model, networks.ROLES)
    load_pretrained(model, str(path))


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_every_adapter_acts_on_every_network_and_updates_equal_those_of_delta(network, stir, distance):
    for method in ("tcurlora", "lora", "pissa"):
        model = stir(adapted(networks.make(network).double(), network, method))
        for layer in [m for m in model.modules() if isinstance(m, AdaptedLinear)]:
            for item in layer.attached:
                x = torch.randn(2, 5, layer.in_features, dtype=torch.float64)
                weights = [layer.weight[first:last] for first, last in item.rows]
                ys = [F.linear(x, weight) for weight in weights]
                fast = item.adapter.updates(item.indices, x, ys, weights)
                slow = Adapter.updates(item.adapter, item.indices, x, ys, weights)
                assert all(distance(a, b) < 1e-10 for a, b in zip(fast, slow, strict=True))


SHAPES = {  # of the stacks of tCURLoRA: slices, rows, columns
    "unetr_tiny": {"attention": (48, 24, 24), "up": (12, 48, 24), "down": (12, 24, 48)},
    "swin_unetr_tiny": {
        f"{name}_{stage}": (slices, out * 12 * 2 ** (stage - 1), inner * 12 * 2 ** (stage - 1))
        for name, (slices, out, inner) in {"attention": (8, 1, 1), "up": (2, 4, 1), "down": (2, 1, 4)}.items()
        for stage in (1, 2, 3, 4)
    },
    "primus_tiny": {"attention": (12, 36, 36), "up": (6, 96, 36), "down": (3, 36, 96)},
    FOREIGN: {"q_k_v_o": (12, 24, 24), "up": (3, 48, 24), "down": (3, 24, 48)},
}


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_the_default_stacks_are_what_the_network_has_equal_weights_of(network):
    model = adapted(networks.make(network), network, "tcurlora", rank=3)
    assert {name: (len(s), *s.shape) for name, s in model.stacks.items()} == SHAPES[network]
    cores = sum(slices * 9 for slices, _, _ in SHAPES[network].values())
    assert sum(p.numel() for p in model.adapters.parameters() if p.requires_grad) == cores


@pytest.mark.parametrize("network", networks.NETWORKS[1:3])
def test_every_file_of_adapters_suits_every_network(network):
    for method in options("adapter"):
        model = networks.make(network).to("meta")
        with torch.device("meta"):
            config = read_adapter(method)
            config.rank = None if config.rank is None else 3
            adapt_from_config(model, config, seed=0)
        assert bool(len(model.adapters)) == bool(config.stacks)
        assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("network", networks.NETWORKS[1:3])
def test_every_parameter_that_is_not_called_unused_is_used_and_the_named_parts_exist(network):
    model = networks.make(network)
    backbone, parameters = backbone_of(model), dict(model.named_parameters())
    model(networks.picture(network)).square().sum().backward()
    for name, parameter in parameters.items():
        assert (parameter.grad is None) == backbone.is_unused(name), name
    other = dict(networks.make(network, in_channels=2, out_channels=5).named_parameters())
    differing = {name for name, p in parameters.items() if p.shape != other[name].shape}
    assert set(backbone.inputs) <= differing <= {*backbone.inputs, *backbone.head}
    assert set(backbone.inputs) | set(backbone.head) <= set(parameters)


def test_blocks_are_counted_through_all_stages():
    model = adapt(networks.make("swin_unetr_tiny"), "tcurlora", rank=3, blocks=[1, 2, 3])
    slots = [slot for stack in model.stacks.values() for slot in stack.slots if slot.role in ("q", "up")]
    assert [(slot.block, slot.role, slot.linear) for slot in slots] == [
        (1, "q", "swinViT.layers1.0.blocks.1.attn.qkv"), (2, "q", "swinViT.layers2.0.blocks.0.attn.qkv"),
        (3, "q", "swinViT.layers2.0.blocks.1.attn.qkv"), (1, "up", "swinViT.layers1.0.blocks.1.mlp.linear1"),
        (2, "up", "swinViT.layers2.0.blocks.0.mlp.linear1"), (3, "up", "swinViT.layers2.0.blocks.1.mlp.linear1"),
    ]  # fmt: skip
    assert model.stacks["attention_1"].blocks == (1,) and model.stacks["attention_2"].heads == 2
