"""LoRA files of PEFT: theirs load as ours, ours load as theirs, and what PEFT cannot hold is refused."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tcurlora_seg import adapt
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.peft_files import load_peft, save_peft
from tcurlora_seg.models.trainable import trainable_parameters

LINEARS = ["attn.qkv", "attn.out_proj", "mlp.linear1", "mlp.linear2"]
DECODER = ["decoder5", "decoder4", "decoder3", "decoder2", "out.conv"]


def theirs(model, **options):
    """A PEFT model with all its numbers off their start."""
    config = {"r": 3, "lora_alpha": 6, "target_modules": LINEARS, "modules_to_save": DECODER, **options}
    with torch.random.fork_rng():
        model = peft.get_peft_model(model, peft.LoraConfig(**config))
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"target_modules": r"vit\.blocks\.[24]\.attn\.qkv"}, {"modules_to_save": None}],
    ids=["all layers", "rank-stabilised", "two layers", "no decoder"],
)
def test_a_folder_of_peft_loads_as_ours(options, tiny, image, tmp_path, distance):
    ours, model = copy.deepcopy(tiny), theirs(tiny, **options)
    model.save_pretrained(tmp_path)
    load_peft(ours, tmp_path)
    assert distance(ours(image), model(image)) < 5e-6
    trained = trainable_parameters(ours)
    assert sum(p.numel() for p in trained.values()) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("options", [{}, {"alpha": 9}, {"blocks": [2, 5]}, {"trainable": []}], ids=str)
def test_ours_loads_as_a_folder_of_peft(options, tiny, image, stir, tmp_path, distance):
    base = copy.deepcopy(tiny)
    model = stir(adapt(tiny, "lora", rank=3, **options), size=0.1)
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            parameter += 0.05 * (not name.startswith("adapters."))
    save_peft(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert distance(loaded(image), model(image)) < 5e-6


@pytest.mark.parametrize(
    ("start", "words"), [("pissa", "init_lora_weights=pissa, which changes"), ("olora", "init_lora_weights=olora")]
)
def test_a_start_that_changes_the_base_is_refused(start, words, tiny, tmp_path):
    theirs(copy.deepcopy(tiny), init_lora_weights=start).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=words):
        load_peft(tiny, tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"peft_type": "LORA", "r": 0, "lora_alpha": 1}',
                                     '{"peft_type": "LORA", "r": 2, "lora_alpha": null}'])  # fmt: skip
def test_a_damaged_configuration_is_refused(content, tiny, tmp_path):
    theirs(copy.deepcopy(tiny)).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=r"is no PEFT configuration|plain LoRA is read"):
        load_peft(tiny, tmp_path)


def test_what_peft_has_no_file_for_is_refused(tiny, tmp_path):
    for method, options, words in [
        ("tcurlora", {"rank": 2}, "stack 'attention' cannot be a PEFT file"),
        ("dora", {"rank": 2}, "stack 'qkv' cannot be a PEFT file"),
        ("lora", {"rank": 2, "stacks": {"a": {"roles": ["q"]}}}, "only LoRA on whole layers can, that is on qkv, o"),
        ("lora", {"stacks": {"a": {"roles": ["o"], "rank": 2}, "b": {"roles": ["up"], "rank": 3}}}, "one rank"),
        ("lora", {"rank": 2, "trainable": ["decoder5.conv_block.**"]}, "decoder5.transp_conv.conv.weight does not"),
        ("full", {}, "one rank, scale and dropout for all LoRA stacks; here are 0"),
    ]:
        model = adapt(copy.deepcopy(tiny), method, **options)
        with pytest.raises(UserError, match=words):
            save_peft(model, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("config", "edit", "words"),
    [
        ({"use_dora": True}, None, "holds LORA with use_dora: plain LoRA is read"),
        ({"peft_type": "IA3"}, None, "holds IA3"),
        ({"rank_pattern": {"qkv": 2}}, None, "rank_pattern"),
        ({"r": 4}, None, r"lora_A.weight is missing or not 4 x 24"),
        ({}, lambda t: t.pop("base_model.model.vit.blocks.0.attn.qkv.lora_B.weight"), "lora_B.weight is missing"),
        ({}, lambda t: t.update({"base_model.model.decoder9.x": torch.zeros(1)}), "decoder9.x does not fit"),
        ({}, lambda t: t.update({"base_model.model.vit.x.lora_A.weight": torch.zeros(1)}), "vit.x is no linear layer"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_changes_nothing(config, edit, words, tiny, image, tmp_path):
    before = tiny(image)
    theirs(copy.deepcopy(tiny)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    if edit:
        edit(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=words):
        load_peft(tiny, tmp_path)
    assert not hasattr(tiny, "adapters") and torch.equal(tiny(image), before)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"it has no adapter_model\.safetensors"):
        load_peft(tiny, tmp_path)
