"""Adapters in a network: names, copies, checkpointing, and the mistakes that are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.checkpoint import checkpoint

from tcurlora_seg import adapt, merge, merged
from tcurlora_seg.adapters.curlora import CURLoRA
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.injection import adapt_from_config, inject, read_adapter
from tcurlora_seg.models.linear import AdaptedLinear
from tcurlora_seg.models.pretrained import describe_base
from tcurlora_seg.models.trainable import trainable_parameters


def test_the_state_dict_keeps_monais_names_and_tensors(tiny):
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    parameters = dict(tiny.named_parameters())
    after = adapt(tiny, "tcurlora", rank=2).state_dict()
    added = [name for name in after if name not in before]
    assert [name for name in after if name in before] == list(before)
    assert added == [f"adapters.{s}.{t}" for s in ("attention", "up", "down") for t in ("core", "rows", "columns")]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(tiny.get_parameter(name) is parameter for name, parameter in parameters.items())


def test_adapters_live_once(tiny):
    model = adapt(tiny, "tcurlora", rank=2)
    names = [name for name, _ in model.named_modules() if name.startswith("adapters.")]
    assert names == ["adapters.attention", "adapters.up", "adapters.down"]
    layer = model.get_submodule("vit.blocks.5.attn.qkv")
    assert isinstance(layer, AdaptedLinear) and [m for m in layer.modules()] == [layer]
    (item,) = layer.attached  # one call for q, k and v, which share their input
    assert item.adapter is model.adapters["attention"] and item.indices == [20, 21, 22]
    assert item.rows == [(0, 24), (24, 48), (48, 72)]


def test_a_deep_copy_points_at_its_own_adapters(tiny):
    twin = copy.deepcopy(adapt(tiny, "tcurlora", rank=2))
    for layer in (m for m in twin.modules() if isinstance(m, AdaptedLinear)):
        assert all(item.adapter in set(twin.adapters.values()) for item in layer.attached)


def test_a_state_dict_restores_an_adapted_network(tiny, image, stir):
    model = stir(adapt(copy.deepcopy(tiny), "lora", rank=2))
    twin = adapt(tiny, "lora", rank=2)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(image), model(image))


def test_activation_checkpointing_gives_the_same_gradients(tiny, image, stir):
    model = stir(adapt(tiny, "tcurlora", rank=2))
    model(image).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in trainable_parameters(model).items()}
    model.zero_grad()
    for block in model.vit.blocks:
        block.forward = lambda x, run=block.forward: checkpoint(run, x, use_reentrant=False)
    model(image).square().mean().backward()
    for name, parameter in trainable_parameters(model).items():
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-5, atol=1e-9), name


def test_compilation_traces_through_an_adapted_layer(tiny, stir):
    layer = stir(adapt(tiny, "tcurlora", rank=2)).get_submodule("vit.blocks.5.attn.qkv")
    x = torch.randn(1, 8, 24)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), layer(x), atol=1e-6)


def test_two_stacks_may_share_a_layer_but_not_a_row(tiny, image, stir, distance):
    stacks = {"queries": {"roles": ["q"]}, "others": {"roles": ["v"], "rank": 3}}
    model = stir(adapt(tiny, "tcurlora", rank=2, stacks=stacks))
    assert [a.core.shape[1] for a in model.adapters.values()] == [2, 3]
    assert len(model.get_submodule("vit.blocks.0.attn.qkv").attached) == 2
    logits = model(image)
    with merged(model):
        assert distance(model(image), logits) < 1e-5


def test_a_stack_may_have_a_method_of_its_own(tiny, image, stir):
    own = {"_target_": "tcurlora_seg.adapters.curlora.CURLoRA", "_partial_": True, "rank": 3}
    stacks = {"q": {"roles": ["q"]}, "up": {"roles": ["up"], "method": own}}
    model = adapt(tiny, "tcurlora", rank=2, stacks=stacks)
    assert isinstance(model.adapters["up"], CURLoRA) and model.adapters["up"].core.shape == (12, 3, 3)


def test_overrides_reach_the_file_and_its_method(tiny):
    uniform = adapt(copy.deepcopy(tiny), "tcurlora", rank=2, selection="uniform", blocks=[0], seed=1)
    assert len(uniform.adapters["up"].core) == 1
    norm = adapt(tiny, "tcurlora", rank=2, blocks=[0])
    assert not torch.equal(uniform.adapters["up"].rows, norm.adapters["up"].rows)


def test_a_learning_rate_is_refused_since_it_belongs_to_the_optimizer(tiny):
    with pytest.raises(UserError, match="has no effect in a loop of your own"):
        adapt(tiny, "tcurlora", rank=2, lr=1e-3)
    assert not hasattr(tiny, "adapters")


def test_every_stack_draws_from_a_stream_of_its_own_that_the_seed_moves(tiny):
    stacks = {"q": {"roles": ["q"]}, "k": {"roles": ["k"]}}
    starts = []
    for seed in (1, 2):
        adapters = adapt(copy.deepcopy(tiny), "lora", rank=2, seed=seed, stacks=stacks).adapters
        starts += [adapters[name].A[0] for name in stacks]
    assert not any(torch.equal(a, b) for i, a in enumerate(starts) for b in starts[:i])


def test_merging_works_within_inference_mode_and_when_nested(tiny, image, stir):
    model = stir(adapt(tiny, "tcurlora", rank=2))
    plain = merge(model)
    with torch.inference_mode():
        with merged(model), merged(model):
            assert torch.equal(model(image), plain(image))
        unmerged = model(image)
    assert torch.equal(model(image), unmerged)
    model(image).square().mean().backward()
    assert all(p.grad is not None for p in trainable_parameters(model).values())


def test_a_failure_within_the_context_restores_too(tiny, image, stir):
    model = stir(adapt(tiny, "tcurlora", rank=2))
    before = model(image)
    with pytest.raises(ZeroDivisionError), merged(model):
        raise ZeroDivisionError
    assert torch.equal(model(image), before)


def test_a_rank_for_a_method_without_one_is_ignored_with_one_line(tiny, caplog):
    adapt(tiny, "decoder_only", rank=8)
    assert [record.getMessage() for record in caplog.records] == ["adapter.rank=8 is ignored: this method has no rank"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "tcurlra"}, "unknown method 'tcurlra': choose from adalora, "),
        ({"rnak": 3}, "no key 'rnak'"),
        ({"method": "full", "selection": "norm"}, "no key 'selection'"),
        ({"_target_": "os.system"}, "no key '_target_'"),
        ({"stacks": {"a": {"roles": ["q"], "rnk": 1}}}, "adapter.stacks.a"),
        ({"stacks": {"a.b": {"roles": ["q"]}}}, "'a.b' cannot name a stack"),
        ({"stacks": {"values": {"roles": ["q"]}}}, "'values' cannot name a stack"),
        ({"stacks": {"a": {"roles": ["q", "z"]}}}, "unknown role 'z'"),
        ({"stacks": {"a": {"roles": ["qkv"]}, "b": {"roles": ["q"]}}}, "both adapt rows of vit.blocks.0.attn.qkv"),
        ({"method": "full", "stacks": {"a": {"roles": ["q"]}}}, "adapter.stacks.a has no method"),
        ({"stacks": {"a": {"roles": ["q"], "rank": 0}}}, "rank=0"),
        ({"blocks": [12]}, "blocks="),
        ({"selection": "best"}, "selection='best' is not what was expected"),
        ({"method": "pissa", "core": "no"}, "core='no' is not what was expected: bool"),
        ({"method": "tenslora", "tensorisation": "heads"}, "tensorisation='heads' is not"),
        ({"method": "lora", "rank": 2, "alpha": 0}, "alpha=0: a number above 0"),
        ({"method": "tera", "scale": 0.0}, "scale=0.0"),
        ({"stacks": {"a": {"roles": ["q"], "rank": 2.5}}}, "rank=2.5 is not"),
        ({"trainable": ["decodr.**"]}, "'decodr.**' matches no parameter"),
    ],
)
def test_a_mistake_is_told_and_leaves_the_network_as_it_was(options, words, tiny, image):
    before, kinds = tiny(image), [type(m) for m in tiny.modules()]
    with pytest.raises(UserError) as caught:
        adapt(tiny, **{"method": "tcurlora", **options})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert [type(m) for m in tiny.modules()] == kinds and torch.equal(tiny(image), before)
    adapt(tiny, "tcurlora", rank=2)


def test_words_may_stand_alone(tiny):
    adapt(tiny, "lora", rank=2, stacks={"qkv": {"roles": "qkv"}}, trainable="decoder")
    assert tiny.stacks["qkv"].roles == ("qkv",)


def test_an_energy_takes_the_place_of_the_files_rank(tiny):
    assert max(adapt(tiny, "tcurlora", energy=0.3).adapters["up"].ranks()) > 1


def test_blocks_without_a_method_are_ignored_with_one_line(tiny, caplog):
    adapt(tiny, "full", blocks=[0])
    assert "adapter.blocks=[0] is ignored: this method adapts no layer" in caplog.text


def test_the_base_is_that_of_the_adapter_that_came_to_be(tiny, build):
    with pytest.raises(UserError, match="rank=1000"):
        adapt(tiny, "lora", rank=1000)
    tiny.load_state_dict(build(seed=3).state_dict())
    assert adapt(tiny, "lora", rank=2).base.base_hash == describe_base(build(seed=3)).base_hash


@pytest.mark.parametrize("method", ["tcurlora", "lora", "lora_pt", "tcurlora_by_role"])
def test_a_network_in_half_precision_can_be_adapted_and_merged(method, tiny, image, stir, distance):
    model = stir(adapt(tiny.bfloat16(), method, rank=2), size=0.1)
    logits = model(image.bfloat16())
    assert logits.dtype == torch.bfloat16
    change = distance(merge(model)(image.bfloat16()), logits)
    assert change < (1 if method == "lora_pt" else 0.1)  # a small difference of large numbers


def test_a_network_is_adapted_once(tiny):
    adapt(tiny, "tcurlora", rank=2)
    with pytest.raises(UserError, match="has adapters already"):
        inject(tiny, {}, trainable=[], seed=0)


def test_a_plain_mapping_serves_as_configuration(tiny):
    plain = OmegaConf.to_container(read_adapter("tcurlora"), resolve=True)
    model = adapt_from_config(tiny, plain, seed=0)
    assert set(model.adapters) == {"attention", "up", "down"}
