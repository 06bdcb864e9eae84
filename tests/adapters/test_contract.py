"""The laws that every method obeys: each test runs over every file in configs/adapter."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.networks.nets import UNETR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tcurlora_seg import adapt, load_model, load_pretrained, merge, merged, save_model
from tcurlora_seg.adapters.base import Adapter, after_step, penalty
from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.injection import read_adapter
from tcurlora_seg.models.linear import AdaptedLinear
from tcurlora_seg.models.pretrained import save_base
from tcurlora_seg.models.trainable import trainable_parameters
from tcurlora_seg.models.unetr import BACKBONE

METHODS = sorted(path.stem for path in (config_folder() / "adapter").glob("*.yaml"))
WITH_ADAPTERS = [method for method in METHODS if read_adapter(method).stacks]
OVERRIDES = {  # defaults that are bound to the size of the real network
    "lora": {"rank": 4},
    "bottleneck": {"rank": 4},
    "dora": {"rank": 4},
    "arena": {"rank": 4},
    "tera": {"scale": 1.0},
}
STIR = {  # how far to move the numbers of a method whose update is a product of three that start small
    "adalora": 0.3,
}
SHIFTS_QKV = {"ssf"}  # these merge into a network with qkv_bias
HIDDEN, MLP, BLOCKS = 24, 48, 12
OUTS = 3 * HIDDEN + HIDDEN + MLP + HIDDEN  # rows of a block's four linear layers
SIDES = OUTS + HIDDEN + HIDDEN + HIDDEN + MLP  # rows and columns
COUNTS = {  # what the adapters train, in closed form, at rank r
    "tcurlora": lambda r: 72 * r**2,
    "tcurlora_by_role": lambda r: 72 * r**2,
    "curlora": lambda r: 48 * r**2,
    "lora": lambda r: BLOCKS * r * SIDES,
    "ssf": lambda r: BLOCKS * 2 * (OUTS + 2 * HIDDEN) + 2 * HIDDEN,
    "bottleneck": lambda r: BLOCKS * 2 * r * OUTS,
    "lotr": lambda r: r * SIDES + BLOCKS * 4 * r**2,
    "pissa": lambda r: BLOCKS * (r * SIDES + 4 * r**2),
    "dora": lambda r: BLOCKS * (r * SIDES + OUTS),
    "adalora": lambda r: BLOCKS * (3 * r // 2) * (SIDES + 4),
    "arena": lambda r: BLOCKS * r * (SIDES + 4),
    "linear": lambda r: 0,
    "bitfit": lambda r: 0,
    "layernorm": lambda r: 0,
    "decoder_only": lambda r: 0,
    "full": lambda r: 0,
    "c3a": lambda r: BLOCKS * (4 * HIDDEN**2 + 2 * HIDDEN * MLP) // (HIDDEN // 3),
    "tenslora": lambda r: r * r * 2 * 3 * r + r * (HIDDEN + HIDDEN // 2 + BLOCKS) + 13,  # two heads, three roles
    "tera": lambda r: BLOCKS * (4 * (9 + 9) + 2 * (9 + 11)),  # 24 = 2 3 4, 48 = 3 4 4
    "lora_pt": lambda r: BLOCKS * r * (4 * (2 * HIDDEN + 1) + 2 * (HIDDEN + MLP + 1)),
    "cdvft": lambda r: BLOCKS * (4 * 3 * HIDDEN + 2 * (HIDDEN + MLP + 2 * HIDDEN)),
}

every_method = pytest.mark.parametrize("method", METHODS)
every_adapter = pytest.mark.parametrize("method", WITH_ADAPTERS)


def adapted(model, method, **overrides):
    return adapt(model, method, **{**OVERRIDES.get(method, {}), **overrides})


def train(model, image, steps=2, prune=True):
    """A few steps of Adam on a loss that every output voxel enters."""
    optimizer = torch.optim.Adam(trainable_parameters(model).values(), lr=1e-2)
    target = torch.randn(model(image).shape, generator=torch.Generator().manual_seed(1))
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = F.mse_loss(model(image), target) + penalty(model.adapters.values())
        loss.backward()
        optimizer.step()
        if prune:
            after_step(model.adapters.values(), step, steps, 1e-2)
    return model


def tensors_of(model):
    """Every parameter and buffer, the ones that are not saved too, copied."""
    return {name: t.detach().clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("rank", [0, 25])
@pytest.mark.parametrize("method", [method for method in WITH_ADAPTERS if read_adapter(method).rank is not None])
def test_a_rank_that_no_slice_can_have_is_refused(method, rank, tiny):
    with pytest.raises(UserError, match=rf"rank={rank} .*choose 1 to 24"):
        adapted(tiny, method, rank=rank)


@every_method
def test_construction_changes_no_bit_of_the_output(method, tiny, image):
    before = tiny(image)
    assert torch.equal(adapted(tiny, method)(image), before)


@every_method
def test_two_steps_move_every_adapter_entry_and_no_frozen_bit(method, tiny, image):
    model = adapted(tiny, method)
    before = tensors_of(model)
    train(model, image, prune=False)
    after, trained = tensors_of(model), trainable_parameters(model)
    for name, tensor in after.items():
        if name.startswith("adapters.") and name in trained:
            moved = tensor != before[name]
            if name.startswith("adapters.qkv.shift."):
                # a shift of the keys adds the same to all scores of a query, which the softmax takes out again
                moved[HIDDEN : 2 * HIDDEN] = True
            assert moved.all(), f"{name} did not move everywhere"
        elif name in trained:
            assert not torch.equal(tensor, before[name]), f"{name} did not move"
        else:
            assert torch.equal(tensor, before[name]), f"{name} moved"
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)


@every_adapter
@pytest.mark.parametrize("tokens", [5, 3000], ids=["few tokens", "many tokens"])
def test_updates_and_their_gradients_equal_those_of_delta(method, tokens, tiny, stir, distance):
    scale = {"alpha": 3.0} if "alpha" in read_adapter(method) else {}
    model = stir(adapted(tiny.double(), method, **scale))
    for layer in (m for m in model.modules() if isinstance(m, AdaptedLinear)):
        for item in layer.attached:
            x = torch.randn(2, tokens, layer.in_features, dtype=torch.float64, requires_grad=True)
            weights = [layer.weight[first:last] for first, last in item.rows]
            ys = [F.linear(x, weight) for weight in weights]
            fast = item.adapter.updates(item.indices, x, ys, weights)
            slow = Adapter.updates(item.adapter, item.indices, x, ys, weights)
            inputs = [x, *item.adapter.parameters()]
            signs = [torch.randn_like(y) for y in ys]
            gradients = [
                torch.autograd.grad(sum((u * s).sum() for u, s in zip(us, signs, strict=True)), inputs,
                                    allow_unused=True)
                for us in (fast, slow)
            ]  # fmt: skip
            for a, b in zip([*fast, *gradients[0]], [*slow, *gradients[1]], strict=True):
                assert (a is None) == (b is None)
                assert a is None or not b.any() or distance(a, b) < 1e-10
        if layer is model.get_submodule("vit.blocks.1.mlp.linear2"):
            break  # two blocks hold every kind of layer


@every_method
def test_merged_equals_unmerged_and_unmerging_restores_every_bit(method, tiny, image, stir, distance):
    base = tiny(image)
    model = stir(adapted(tiny, method), STIR.get(method, 0.02))
    before, logits = tensors_of(model), model(image)
    pointers = {name: p.data_ptr() for name, p in model.named_parameters()}
    with merged(model):
        assert distance(model(image), logits) < 1e-5
        if method in WITH_ADAPTERS:
            assert distance(logits, base) > 1e-3, "the adapters did nothing that merging could get wrong"
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors_of(model).items())
    assert pointers == {name: p.data_ptr() for name, p in model.named_parameters()}
    assert torch.equal(model(image), logits)


@every_method
def test_merge_gives_a_plain_network_and_leaves_the_adapted_one_alone(method, tiny, image, stir, distance):
    model = stir(adapted(tiny, method))
    before, logits = tensors_of(model), model(image)
    plain = merge(model)
    assert type(plain) is UNETR and not any(isinstance(m, AdaptedLinear | Adapter) for m in plain.modules())
    assert distance(plain(image), logits) < 1e-5
    sizes = {"feature_size": 4, "hidden_size": HIDDEN, "mlp_dim": MLP, "num_heads": 2}
    fresh = UNETR(1, 2, (32, 32, 32), **sizes, qkv_bias=method in SHIFTS_QKV).eval()
    fresh.load_state_dict(plain.state_dict())
    assert torch.equal(fresh(image), plain(image))
    assert all(p.requires_grad != BACKBONE.is_unused(name) for name, p in plain.named_parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors_of(model).items())


@every_method
def test_save_then_load_gives_equal_logits(method, build, image, tmp_path):
    path = save_base(build(), tmp_path)
    networks = [build(seed=seed).eval() for seed in (1, 2)]  # `out` starts afresh, differently
    for network in networks:
        load_pretrained(network, str(path))
        adapted(network, method, seed=3)
    train(networks[0], image)
    save_model(networks[0], tmp_path / "model.safetensors", metadata={"note": "kept"})
    assert load_model(networks[1], tmp_path / "model.safetensors")["note"] == "kept"
    assert torch.equal(networks[1](image), networks[0](image))


@every_method
def test_another_base_is_refused_with_both_hashes(method, build, tmp_path):
    first, second = adapted(build(), method), adapted(build(seed=1), method)
    save_model(first, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_model(second, tmp_path / "model.safetensors")
    assert first.base.base_hash in str(caught.value) and second.base.base_hash in str(caught.value)


@every_method
def test_the_adapters_train_as_many_numbers_as_the_closed_form(method, tiny):
    model = adapted(tiny, method)
    rank = OVERRIDES.get(method, {}).get("rank", read_adapter(method).rank)
    assert sum(p.numel() for p in model.adapters.parameters() if p.requires_grad) == COUNTS[method](rank)


@every_method
def test_what_no_network_uses_stays_frozen_and_the_head_trains(method, tiny):
    trained = trainable_parameters(adapted(tiny, method))
    assert not any(BACKBONE.is_unused(name) for name in trained)
    assert {"out.conv.conv.weight", "out.conv.conv.bias"} <= set(trained)


@every_adapter
def test_the_same_seed_gives_the_same_adapters(method, tiny):
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # the global generator has no say
        states.append(adapted(copy.deepcopy(tiny), method, seed=7).adapters.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@every_adapter
@pytest.mark.parametrize("roles", [["q", "v"], ["qkv"], ["k"], ["o"], ["up"], ["down"]], ids=" ".join)
def test_any_roles_and_blocks_can_be_adapted(method, roles, tiny, image, stir, distance):
    base = tiny(image)
    model = adapted(tiny, method, stacks={"some": {"roles": roles}}, blocks=[1, 4, 5])
    assert torch.equal(model(image), base)
    assert model.adapters["some"].state_dict() and len(model.stacks["some"]) == 3 * len(roles)
    logits = stir(model, size=0.1)(image)
    assert distance(logits, base) > 1e-4
    with merged(model):
        assert distance(model(image), logits) < 1e-5


@every_method
def test_a_deep_copy_is_independent(method, tiny, image, stir):
    model = adapted(tiny, method)
    before, twin = model(image), copy.deepcopy(model)
    assert torch.equal(twin(image), before)
    stir(twin)
    assert torch.equal(model(image), before)
    assert torch.equal(twin(image), before) == (method not in WITH_ADAPTERS)


@every_method
def test_bfloat16_autocast_runs_and_leaves_gradients_in_float32(method, tiny, image, stir, distance):
    model = stir(adapted(tiny, method))
    logits = model(image)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(image)
    assert rounded.dtype == torch.bfloat16 and distance(rounded, logits) < 0.05
    rounded.float().square().mean().backward()
    for name, parameter in trainable_parameters(model).items():
        assert parameter.grad.dtype == torch.float32 and torch.isfinite(parameter.grad).all(), name


@every_adapter
def test_delta_stays_in_float32_under_autocast(method, tiny, stir):
    model = stir(adapted(tiny, method))
    layer = next(m for m in model.modules() if isinstance(m, AdaptedLinear))
    exact, _ = layer.merged()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.merged()[0], exact)


class OneDevice(TorchDispatchMode):
    """Refuses operations that mix tensors of two devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        assert len({tensor.device for tensor in tensors}) < 2, func
        return func(*args, **(kwargs or {}))


@every_method
def test_a_step_runs_on_another_device_and_reads_nothing_back_from_it(tiny, image, method):
    """The device `meta` holds no numbers: what reads one, or meets a tensor that stayed behind, fails."""
    model = adapted(tiny, method).train().to("meta")
    optimizer = torch.optim.Adam(trainable_parameters(model).values(), amsgrad=True)
    images, labels = torch.empty_like(image, device="meta"), torch.empty_like(image, device="meta")
    with OneDevice():
        for step in (1, 2, 3):  # AdaLoRA cuts at the second
            optimizer.zero_grad()
            loss = DiceCELoss(softmax=True, to_onehot_y=True)(model(images), labels)
            (loss + penalty(model.adapters.values())).backward()
            optimizer.step()
            after_step(model.adapters.values(), step, total=4, lr=1e-3)
