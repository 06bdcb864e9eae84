"""Files in the layouts of public checkpoints, made from random networks: what fits is loaded, the rest is listed."""

from __future__ import annotations

import json

import networks
import pytest
import torch
from monai.networks.nets import ViT

from tcurlora_seg import adapt, load_pretrained, save_model
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import backbone_of
from tcurlora_seg.models.primus import BACKBONE as PRIMUS
from tcurlora_seg.models.primus import PLAN
from tcurlora_seg.models.trainable import trainable_parameters
from tcurlora_seg.models.unetr import POSITIONS

SWIN, TINY = "swin_unetr_tiny", "primus_tiny"


def load(network, content, folder, **options):
    torch.save(content, folder / "base.pt")
    return load_pretrained(network, str(folder / "base.pt"), **options)


def same(network, other, prefix):
    """Whether all parameters with the prefix are those of the other network."""
    names = [name for name, _ in network.named_parameters() if name.startswith(prefix)]
    return bool(names) and all(torch.equal(network.get_parameter(n), other.get_parameter(n)) for n in names)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_whole_swin_unetr_of_another_task_loads_but_for_its_head(prefix, tmp_path):
    theirs, ours = networks.make(SWIN, seed=1, out_channels=14), networks.make(SWIN)
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    report = load(ours, {"epoch": 3, "state_dict": state}, tmp_path)
    assert same(ours, theirs, "swinViT.") and same(ours, theirs, "decoder1.")
    assert report.fresh == backbone_of(ours).head and report.ignored == ()


def ssl(network, rename):
    """A self-supervised encoder's file: heads of its own tasks beside it."""
    state = {rename(name): t for name, t in network.state_dict().items() if name.startswith("swinViT.")}
    heads = ("rotation_head.weight", "contrastive_head.weight", "conv.0.weight", "encoder.norm.weight")
    return {**state, **{name: torch.zeros(3) for name in heads}}


@pytest.mark.parametrize(
    ("wrapper", "rename"),
    [
        ("state_dict", lambda name: "module." + name.removeprefix("swinViT.").replace("mlp.linear", "mlp.fc")),
        ("state_dict", lambda name: name),
        ("model", lambda name: "encoder." + name.removeprefix("swinViT.").replace(".0.blocks.", ".0.0.blocks.")),
    ],
    ids=["MONAI's", "BrainSegFounder's", "disruptive autoencoders"],
)
def test_a_self_supervised_swin_encoder_loads_and_what_it_lacks_starts_afresh_and_trains(wrapper, rename, tmp_path):
    theirs, ours = networks.make(SWIN, seed=1), networks.make(SWIN)
    content = ssl(theirs, rename)
    if "module" in next(iter(content)):
        content = {n if n.startswith("module.") else f"module.{n}": t for n, t in content.items()}
    report = load(ours, {wrapper: content}, tmp_path)
    assert same(ours, theirs, "swinViT.")
    rest = {name for name, _ in ours.named_parameters() if not name.startswith("swinViT.")}
    assert set(report.fresh) == rest and {"rotation_head.weight", "conv.0.weight"} <= set(report.ignored)
    assert "start afresh and train (encoder1" in str(report)
    assert rest <= set(trainable_parameters(adapt(ours, "tcurlora", rank=2)))
    save_model(ours, tmp_path / "model.safetensors")


def test_an_incomplete_encoder_and_an_incomplete_network_are_refused(tmp_path):
    ours = networks.make(SWIN)
    state = {n: t for n, t in ours.state_dict().items() if n.startswith("swinViT.")}
    gone = "swinViT.layers2.0.blocks.1.attn.qkv.weight"
    with pytest.raises(UserError, match=f"{gone} is missing"):
        load(ours, {name: tensor for name, tensor in state.items() if name != gone}, tmp_path)
    extra = {**state, "swinViT.layers5.0.blocks.0.norm1.weight": torch.zeros(3)}
    with pytest.raises(UserError, match=r"swinViT\.layers5.* is surplus"):
        load(ours, extra, tmp_path)
    whole = {name: tensor for name, tensor in ours.state_dict().items() if not name.startswith("encoder2.")}
    with pytest.raises(UserError, match=r"encoder2.* is missing"):
        load(ours, whole, tmp_path)
    with pytest.raises(UserError, match="is missing"):
        load(ours, state, tmp_path, missing=[])


def plan(**changes):
    """What nnssl writes beside the weights, shortened."""
    configuration = {"patch_size": [32, 32, 32], "spacing": [1, 1, 1], "normalization_schemes": ["ZScoreNormalization"],
                     "use_mask_for_norm": [False], **changes}  # fmt: skip
    return {"key_to_encoder": "eva", "key_to_stem": "down_projection", "pretrain_num_input_channels": 1,
            "pretrain_plan": {"configurations": {"onemmiso": configuration}}}  # fmt: skip


def openmind(network):
    """A masked autoencoder's file: the encoder, a decoder of its own kind and what paints patches."""
    kept = ("eva.", "down_projection.", "up_projection.")
    state = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(kept)}
    others = {name.replace("eva.", "decoder."): tensor for name, tensor in state.items() if name.startswith("eva.")}
    return {"network_weights": {**state, **others, "mask_token": torch.zeros(1, 1, 36)},
            "nnssl_adaptation_plan": plan(), "trainer_name": "EvaMAE"}  # fmt: skip


def test_an_openmind_checkpoint_gives_primus_its_encoder_for_any_window(tmp_path):
    theirs, ours = networks.make(TINY, seed=1), networks.make(TINY, window=[40, 48, 32])
    report = load(ours, openmind(theirs), tmp_path)
    assert same(ours, theirs, "eva.blocks.") and same(ours, theirs, "down_projection.")
    assert report.resized == ("eva.pos_embed",) and set(report.fresh) == set(PRIMUS.head)
    assert {"decoder.norm.weight", "mask_token"} <= set(report.ignored)
    assert ours(torch.randn(1, 1, 40, 48, 32)).shape == (1, 2, 40, 48, 32)
    assert ours.eva.rope.pos_embed.shape[0] == ours.eva.pos_embed.shape[1] == 5 * 6 * 4


def test_the_plan_beside_a_checkpoint_says_how_images_are_prepared(tmp_path):
    weights = tmp_path / "checkpoint_final.pth"
    assert PRIMUS.preparation("random") == PRIMUS.preparation(str(weights)) == {}
    weights.touch()
    assert PRIMUS.preparation(str(weights)) == {}
    for changes, expected in [
        ({}, {"spacing": [1.0, 1.0, 1.0], "intensity": "zscore_image", "limits": None}),
        ({"spacing": None, "use_mask_for_norm": [True]}, {"spacing": None, "intensity": "zscore", "limits": None}),
    ]:
        (tmp_path / PLAN).write_text(json.dumps(plan(**changes)))
        assert PRIMUS.preparation(str(weights)) == expected
    for content, words in [
        (plan(normalization_schemes=["CTNormalization"]), "CTNormalization"),
        ({"configurations": {}}, "is no plan of nnssl"),
        ([], "is no plan of nnssl"),
    ]:
        (tmp_path / PLAN).write_text(json.dumps(content))
        with pytest.raises(UserError, match=words):
            PRIMUS.preparation(str(weights))


def vit(**options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ViT(1, (32, 32, 32), 16, 24, 48, 12, 2, qkv_bias=True, **options)


def timms(state):
    """MONAI's names as timm has them."""
    table = {"attn.out_proj": "attn.proj", "mlp.linear": "mlp.fc", "patch_embedding.position_embeddings": "pos_embed",
             "patch_embedding.patch_embeddings": "patch_embed.proj"}  # fmt: skip
    named = {}
    for name, tensor in state.items():
        for ours, theirs in table.items():
            name = name.replace(ours, theirs)
        named[name] = tensor
    return {**named, "pos_embed": torch.cat([torch.zeros(1, 1, 24), named["pos_embed"]], 1)}


def masked_autoencoder(state):
    """As BM-MAE has it: what sees the image is elsewhere, and a decoder stands beside the encoder."""
    kept = {name: t for name, t in state.items() if not name.startswith("patch_embedding")}
    decoder = {"decoder.blocks.0.attn.qkv.weight": torch.zeros(9, 3), "tokenizers.t1.bias": torch.zeros(3)}
    return {**decoder, **kept}


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize(
    ("layout", "stem"),
    [
        (lambda state: state, True),
        (lambda state: {f"encoder.{name}": t for name, t in state.items()}, True),
        (lambda state: {**{f"vit.{name}": t for name, t in state.items()}, "head.weight": torch.zeros(2)}, True),
        (timms, True),
        (masked_autoencoder, False),
    ],
    ids=["bare", "encoder.", "vit.", "timm's", "BM-MAE's"],
)
def test_unetr_takes_an_encoder_and_the_rest_starts_afresh_and_trains(layout, stem, classification, build, tmp_path):
    theirs = vit(classification=classification)
    ours = build(qkv_bias=True).eval()
    report = load(ours, {"model": layout(theirs.state_dict())}, tmp_path)
    for name, parameter in theirs.named_parameters():
        if name.startswith(("blocks.", "norm.")):
            assert torch.equal(parameter, ours.get_parameter(f"vit.{name}")), name
    assert (POSITIONS in report.fresh) != stem
    fresh = {n for n, _ in ours.named_parameters() if not n.startswith("vit.")}
    fresh |= set() if stem else {n for n, _ in ours.named_parameters() if "patch_embedding" in n}
    assert set(report.fresh) == fresh <= set(trainable_parameters(adapt(ours, "tcurlora", rank=2)))
    aside = [name for name in report.ignored if "norm_cross_attn" not in name]
    assert bool(aside) == (classification or not stem or "head.weight" in report.ignored)


def test_an_encoder_with_biases_that_the_network_has_not_is_refused(build, tmp_path):
    with pytest.raises(UserError, match=r"vit\.blocks\.0\.attn\.qkv\.bias is surplus"):
        load(build(), vit().state_dict(), tmp_path)
