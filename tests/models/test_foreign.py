"""A transformer that nobody described: where its roles are is told in the call."""

from __future__ import annotations

import re
from pathlib import Path

import networks
import pytest
import torch
from torch import nn

from tcurlora_seg import Switch, adapt, describe, load_model, merge, save_model
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import Role
from tcurlora_seg.models.pretrained import describe_base
from tcurlora_seg.models.trainable import trainable_parameters

IMAGE = networks.picture("a foreign ViT")


def vit():
    return networks.make("a foreign ViT")


def test_roles_of_equal_shape_form_one_stack_and_nothing_else_trains():
    model = adapt(vit(), "tcurlora", rank=2, roles=networks.ROLES)
    assert list(model.stacks) == ["q_k_v_o", "up", "down"]
    slots = model.stacks["q_k_v_o"].slots[:4]
    assert [(s.role, s.first, s.last) for s in slots] == [("q", 0, 24), ("k", 24, 48), ("v", 48, 72), ("o", 0, 24)]
    assert all(name.startswith("adapters.") for name in trainable_parameters(model))
    assert model.stacks["up"].heads == 2


def test_trainable_and_stacks_can_be_given_besides():
    model = adapt(vit(), "lora", rank=2, roles={"q": Role("blocks.*.attn.qkv", 0, 3), "up": "blocks.*.mlp.linear1"},
                  trainable=["classification_head.**"], stacks={"one": {"roles": ["q"]}}, blocks=[0, 2])  # fmt: skip
    trained = {name.rsplit(".", 1)[0] for name in trainable_parameters(model)}
    assert trained == {"adapters.one.A", "adapters.one.B", "classification_head.0"}
    assert model.stacks["one"].blocks == (0, 2)


def test_layers_of_several_widths_form_a_stack_each():
    pyramid = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model = adapt(pyramid, "tcurlora", rank=2, roles={"a": "*"})
    assert {name: [s.linear for s in stack.slots] for name, stack in model.stacks.items()} == {
        "a_1": ["0", "1"], "a_2": ["2"], "a_3": ["3", "4"]
    }  # fmt: skip


def test_a_file_of_a_foreign_network_is_loaded_and_switched_to(stir, tmp_path):
    tuned = stir(adapt(vit(), "lora", rank=2, roles=networks.ROLES, trainable=["classification_head.**"]))
    save_model(tuned, tmp_path / "a.safetensors")
    twin = adapt(vit(), "lora", rank=2, roles=networks.ROLES, trainable=["classification_head.**"])
    load_model(twin, tmp_path / "a.safetensors")
    assert torch.equal(twin(IMAGE), tuned(IMAGE))
    plain, base = vit(), vit()(IMAGE)
    describe(plain, networks.ROLES)
    plain.base = describe_base(plain)
    switch = Switch(plain)
    switch.add("a", tmp_path / "a.safetensors")
    for name, expected in (("a", tuned(IMAGE)), (None, base), ("a", tuned(IMAGE))):
        switch.use(name)
        assert torch.equal(plain(IMAGE), expected)
    assert torch.allclose(merge(tuned)(IMAGE), tuned(IMAGE), atol=1e-6)


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({}, "roles is empty"),
        ({"q-k": "blocks.*.attn.qkv"}, "'q-k' cannot name a role"),
        ({"q": "layers.*.attn.q"}, r"role 'q': no layer matches 'layers\.\*\.attn\.q'"),
        ({"q": "blocks.*.attn"}, r"blocks\.0\.attn is SABlock, not nn\.Linear"),
        ({"q": ("blocks.*.attn.qkv", 0, 5)}, r"the rows of blocks\.0\.attn\.qkv cannot be cut into 5 equal parts"),
        ({"v": ("blocks.*.attn.qkv", 3, 3)}, "role 'v': there is no part 3 of 3: parts are counted from 0"),
        ({"q": "blocks.*.attn.qkv", "o": "blocks.[01].attn.out_proj"}, "no layer matches"),
        ({"q": "blocks.*.attn.qkv", "a": "blocks.*.mlp.linear*"}, "role 'q' stands for 3 layers, but there are 6"),
    ],
)
def test_roles_that_cannot_be_are_refused(roles, words):
    with pytest.raises(UserError, match=words):
        adapt(vit(), "tcurlora", rank=2, roles=roles)


def test_a_method_that_would_train_nothing_is_refused():
    with pytest.raises(UserError, match="no layer is adapted and 'trainable' names no parameter: nothing would train"):
        adapt(vit(), "decoder_only", roles=networks.ROLES)


class Tenfold(nn.Linear):
    def forward(self, x):
        return 10 * super().forward(x)


@pytest.mark.parametrize(
    ("layer", "roles", "words"),
    [
        (Tenfold(4, 4), {"q": "0"}, "0 is Tenfold, with a forward pass of its own"),
        (nn.LayerNorm(4, elementwise_affine=False), {"n": "0"}, "0 has no weight"),
        (nn.Linear(4, 4), {"q": ("0", 1, 2, 3)}, r"q=\('0', 1, 2, 3\) is neither a glob nor"),
    ],
)
def test_a_layer_that_cannot_be_adapted_is_refused(layer, roles, words):
    with pytest.raises(UserError, match=words):
        adapt(nn.Sequential(layer), "lora", rank=1, roles=roles)


def test_attention_that_never_calls_its_layer_is_refused():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(UserError, match=r"nn\.MultiheadAttention takes the weight of self_attn\.out_proj"):
        adapt(layer, "tcurlora", rank=2, roles={"o": "self_attn.out_proj"})


PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
EXAMPLES = re.findall("```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_on_networks_adapts_a_vit_of_hugging_face(monkeypatch):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.ViTConfig(image_size=32, patch_size=16, num_labels=3, **sizes)
    monkeypatch.setattr(transformers.ViTForImageClassification, "from_pretrained",
                        lambda name: transformers.ViTForImageClassification(config))  # fmt: skip
    model = run_example(EXAMPLES[1])["model"]
    assert [(len(stack), stack.heads) for stack in model.stacks.values()] == [(8, 2), (2, 2), (2, 2)]
    assert {name.split(".")[0] for name in trainable_parameters(model)} == {"adapters", "classifier"}
    model(torch.randn(1, 3, 32, 32)).logits.sum().backward()
    assert all(p.grad is not None for p in trainable_parameters(model).values())


def test_the_page_on_networks_adapts_a_vit_of_timm_as_primus_needs_it(monkeypatch):
    networks.need_primus()
    import timm

    small = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: timm.models.VisionTransformer(**small))
    names = run_example(EXAMPLES[0])
    assert [len(stack) for stack in names["vit"].stacks.values()] == [8, 2, 2]
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(names["plain"].eval()(image), names["vit"].eval()(image))


def run_example(text):
    names = {}
    exec(text, names)
    return names
