"""Pre-trained weights: every format that is read, what may differ, and everything that is refused."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import save_file

from tcurlora_seg import adapt, load_pretrained, merge
from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.errors import UserError
from tcurlora_seg.models import pretrained
from tcurlora_seg.models.backbone import build_network
from tcurlora_seg.models.checkpoint import base_spacing, trained_on
from tcurlora_seg.models.pretrained import base_hash, describe_base, resize_positions, save_base
from tcurlora_seg.models.unetr import BACKBONE, POSITIONS


@pytest.fixture
def state(build):
    """The tensors of a network other than `tiny`, without what MONAI never uses: as its version 1.3 wrote them."""
    return {name: p.detach().clone() for name, p in build(seed=9).named_parameters() if not BACKBONE.is_unused(name)}


def equal(model, state, names=None):
    return all(torch.equal(model.get_parameter(name), state[name]) for name in names or state)


def formats(state, folder):
    """One file per way in which weights come."""
    stale = {
        f"vit.blocks.{b}.cross_attn.{t}.weight": torch.randn(24, 24) for b in (0, 11) for t in ("to_q", "out_proj")
    }
    unused = {f"vit.blocks.{b}.norm_cross_attn.weight": torch.ones(24) for b in range(12)}
    contents = {
        "plain.pt": state,
        "current.pth": {**state, **unused},
        "old.pt": {**state, **unused, **stale},
        "public.pth": {"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3, "best_acc": 0.5},
        "bundle.pt": {"state_dict": state},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    save_file(state, folder / "plain.safetensors")
    return [folder / name for name in [*contents, "plain.safetensors"]]


def test_every_format_gives_the_same_weights_and_the_same_hash(tiny, state, tmp_path):
    hashes = set()
    for path in formats(state, tmp_path):
        report = load_pretrained(tiny, str(path))
        assert equal(tiny, state), path
        assert not report.fresh and not report.resized and set(state) <= set(report.loaded)
        assert report.source == str(path) and tiny.base is report
        assert len(report.ignored) == (4 if path.name == "old.pt" else 0)
        hashes.add(report.base_hash)
        for parameter in tiny.parameters():
            torch.nn.init.zeros_(parameter)
    assert len(hashes) == 1


def test_half_precision_is_raised_exactly(tiny, state, tmp_path):
    half = {name: tensor.half() for name, tensor in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    report = load_pretrained(tiny, str(tmp_path / "half.safetensors"))
    assert equal(tiny, {name: tensor.float() for name, tensor in half.items()})
    assert report.base_hash == base_hash({name: tensor.float() for name, tensor in half.items()}, BACKBONE)


def test_a_merged_network_is_a_base_again(tiny, build, stir, tmp_path):
    plain = merge(stir(adapt(build(seed=9), "tcurlora", rank=2)))
    torch.save(plain.state_dict(), tmp_path / "merged.pt")
    load_pretrained(tiny, str(tmp_path / "merged.pt"))
    assert equal(tiny, plain.state_dict())


def test_the_hash_is_of_names_shapes_and_float32_values_alone(state):
    digest = hashlib.sha256()
    pair = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[3.0]])}
    digest.update(b"a (1, 1)\n" + struct.pack("<f", 3.0) + b"b (2,)\n" + struct.pack("<2f", 1.0, 2.0))
    assert base_hash(pair, BACKBONE) == digest.hexdigest()
    assert base_hash({**pair, "vit.blocks.0.norm_cross_attn.weight": torch.ones(2)}, BACKBONE) == digest.hexdigest()
    for changed in ({**pair, "a": torch.tensor([3.0])}, {**pair, "a": torch.tensor([[3.0000002]])}, {"b": pair["b"]}):
        assert base_hash(changed, BACKBONE) != digest.hexdigest()
    assert len({base_hash({"a": b}, BACKBONE) for b in (pair["b"].half(), pair["b"].double(), pair["b"])}) == 1


def test_another_number_of_classes_starts_the_head_afresh_and_keeps_the_hash(build, state, tmp_path):
    torch.save(state, tmp_path / "base.pt")
    two, five = build(), build(out_channels=5)
    fresh = {name: five.get_parameter(name).detach().clone() for name in BACKBONE.head}
    reports = [load_pretrained(model, str(tmp_path / "base.pt")) for model in (two, five)]
    assert reports[1].fresh == BACKBONE.head and not reports[0].fresh
    assert equal(five, fresh) and equal(five, state, set(state) - set(BACKBONE.head))
    assert reports[0].base_hash == reports[1].base_hash


@pytest.mark.parametrize("lost", [[BACKBONE.head[0]], [BACKBONE.head[1]], list(BACKBONE.head)])
def test_a_head_is_whole_or_fresh(lost, tiny, state, tmp_path):
    fresh = {name: tiny.get_parameter(name).detach().clone() for name in BACKBONE.head}
    for name in lost:
        del state[name]
    torch.save(state, tmp_path / "base.pt")
    report = load_pretrained(tiny, str(tmp_path / "base.pt"))
    assert set(report.fresh) == set(BACKBONE.head) and not set(BACKBONE.head) & set(report.loaded)
    assert equal(tiny, fresh)


def test_positions_of_another_image_size_are_interpolated(build, image, state, tmp_path):
    torch.save(state, tmp_path / "base.pt")
    model = build(img_size=[64, 48, 32])
    report = load_pretrained(model, str(tmp_path / "base.pt"))
    assert report.resized == (POSITIONS,) and POSITIONS not in report.loaded
    cube = state[POSITIONS].view(2, 2, 2, 24).permute(3, 0, 1, 2)[None]
    expected = F.interpolate(cube, size=(4, 3, 2), mode="trilinear")[0].permute(1, 2, 3, 0)
    assert torch.allclose(model.get_parameter(POSITIONS)[0], expected.reshape(24, 24))
    assert model(torch.randn(1, 1, 64, 48, 32)).isfinite().all()


def test_interpolation_keeps_constants_and_axes():
    assert torch.allclose(resize_positions(torch.full((1, 8, 3), 2.5), (4, 3, 5)), torch.full((1, 60, 3), 2.5))
    ramp = torch.arange(4.0).view(4, 1, 1).expand(4, 4, 4).reshape(1, 64, 1)
    resized = resize_positions(ramp, (8, 2, 3)).view(8, 2, 3)
    assert torch.allclose(resized, resized[:, :1, :1].expand(8, 2, 3)) and (resized[1:] >= resized[:-1]).all()
    assert resize_positions(torch.zeros(1, 12, 3), (2, 2, 2)) is None


def test_another_number_of_channels_is_refused_unless_asked_for(build, state, tmp_path):
    torch.save(state, tmp_path / "base.pt")
    model = build(in_channels=3)
    with pytest.raises(UserError, match=r"1 image channels; pretrained_inflate=true"):
        load_pretrained(model, str(tmp_path / "base.pt"))
    report = load_pretrained(model, str(tmp_path / "base.pt"), inflate=True)
    assert set(report.resized) == set(BACKBONE.inputs)
    grey = build()
    load_pretrained(grey, str(tmp_path / "base.pt"))
    x = torch.randn(1, 1, 32, 32, 32)
    assert torch.allclose(model.eval()(x.expand(-1, 3, -1, -1, -1)), grey.eval()(x), atol=1e-4)


def test_what_is_listed_may_be_missing_or_of_another_shape(build, tiny, state, tmp_path):
    start = build(mlp_dim=64)
    kept = start.get_parameter("vit.blocks.3.mlp.linear1.weight").detach().clone()
    del state["encoder4.transp_conv_init.conv.weight"]
    torch.save(state, tmp_path / "base.pt")
    report = load_pretrained(start, str(tmp_path / "base.pt"), missing=["vit.blocks.*.mlp.**", "encoder4.**"])
    assert torch.equal(start.get_parameter("vit.blocks.3.mlp.linear1.weight"), kept)
    assert "encoder4.transp_conv_init.conv.weight" in report.fresh and "vit.blocks.3.mlp.linear1.weight" in report.fresh
    assert "vit.blocks.3.mlp.linear2.bias" in report.loaded  # it fits
    with pytest.raises(UserError, match=r"pretrained_missing: 'encoder9\.\*' matches no parameter"):
        load_pretrained(tiny, str(tmp_path / "base.pt"), missing=["encoder9.*"])


def _edit(state, **changes):
    return {**state, **changes}


QKV = "vit.blocks.4.attn.qkv.weight"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: {n: t for n, t in s.items() if n != QKV}, f"{QKV} is missing"),
        (lambda s: _edit(s, extra=torch.zeros(1)), "extra is surplus"),
        (
            lambda s: _edit(s, **{"vit.blocks.0.cross_attn.odd.weight": torch.zeros(1)}),
            "cross_attn.odd.weight is surplus",
        ),
        (lambda s: _edit(s, **{QKV: torch.zeros(72, 25)}), f"{QKV} is 72 x 25, the network's 72 x 24"),
        (lambda s: _edit(s, **{QKV: torch.full((72, 24), torch.nan)}), f"{QKV} holds values that are not finite"),
        (lambda s: _edit(s, **{QKV: torch.zeros(72, 24, dtype=torch.int64)}), "not finite numbers"),
        (lambda s: _edit(s, **{POSITIONS: torch.zeros(1, 12, 24)}), f"{POSITIONS} is 1 x 12 x 24"),
        (lambda s: _edit(s, **{POSITIONS: torch.zeros(1, 27, 25)}), f"{POSITIONS} is 1 x 27 x 25"),
        (
            lambda s: _edit(s, **{BACKBONE.head[0]: torch.zeros(2, 4, 1, 1, 1), "adapters.up.core": torch.zeros(1)}),
            "file of a run",
        ),
        (lambda s: {"state_dict": {}}, "no state dict"),
        (lambda s: {"weights": 3}, "no state dict"),
        (lambda s: [1, 2], "no state dict"),
        (lambda s: {"state_dict": s, "scheduler": object()}, "holds a pickled object, which could run code"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(edit, words, tiny, state, tmp_path):
    before = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    torch.save(edit(state), tmp_path / "base.pt")
    with pytest.raises(UserError) as caught:
        load_pretrained(tiny, str(tmp_path / "base.pt"))
    text = str(caught.value)
    assert words in text and str(tmp_path / "base.pt") in text and "\n" not in text
    assert equal(tiny, before) and not hasattr(tiny, "base")


@pytest.mark.parametrize("name", ["plain.pt", "plain.safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(name, share, tiny, state, tmp_path):
    (path,) = (p for p in formats(state, tmp_path) if p.name == name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="damaged"):
        load_pretrained(tiny, str(path))


def test_another_architecture_is_one_line(build, state, tmp_path):
    torch.save(state, tmp_path / "base.pt")
    with pytest.raises(UserError) as caught:
        load_pretrained(build(hidden_size=48), str(tmp_path / "base.pt"))
    assert "\n" not in str(caught.value) and "of another size (129 of 194 tensors differ" in str(caught.value)


@pytest.mark.parametrize("source", ["missing.pt", ".", "notes.txt"])
def test_a_file_that_is_none_is_refused(source, tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("weights")
    with pytest.raises(UserError, match="pretrained="):
        load_pretrained(tiny, str(tmp_path / source))


def test_weights_come_before_adapters(tiny, state, tmp_path):
    torch.save(state, tmp_path / "base.pt")
    with pytest.raises(UserError, match="load its weights first"):
        load_pretrained(adapt(tiny, "full"), str(tmp_path / "base.pt"))


def test_builtin_is_the_packaged_file(tiny, state, tmp_path, monkeypatch):
    save_file(state, tmp_path / "small.safetensors")
    monkeypatch.setitem(pretrained.PACKAGED, "builtin", tmp_path / "small.safetensors")
    assert load_pretrained(tiny, "builtin").source == "builtin" and equal(tiny, state)


@pytest.mark.parametrize("name", pretrained.PACKAGED)
def test_the_packaged_bases_fit_the_small_network(name):
    model = OmegaConf.load(config_folder() / "model" / "unetr_small.yaml")
    if name == "builtin_tumours":
        with pytest.raises(UserError, match=r"it goes with model\.feature_size=8"):
            load_pretrained(build_network(model, [64, 64, 64], in_channels=1, out_channels=3), name)
        model.feature_size = 8
    report = load_pretrained(build_network(model, [64, 64, 64], in_channels=1, out_channels=3), name)
    assert set(report.fresh) == {*BACKBONE.head} and not report.resized and not report.ignored
    assert trained_on(name) == []
    spacing = base_spacing(name)
    assert (spacing is None) == (name == "builtin_tumours") and (spacing is None or spacing.covers([1.0, 1.5, 2.0]))


def test_as_many_positions_on_another_grid_are_resized():
    sizes = OmegaConf.load(config_folder() / "model" / "unetr_small.yaml")
    network = build_network(sizes, [32, 64, 128], in_channels=1, out_channels=14)  # 2 x 4 x 8 patches, as 4 x 4 x 4
    assert POSITIONS in load_pretrained(network, "builtin").resized
    cube = build_network(sizes, [64, 64, 64], in_channels=1, out_channels=14)
    assert not load_pretrained(cube, "builtin").resized
    expected = resize_positions(cube.get_parameter(POSITIONS), (2, 4, 8))
    assert torch.equal(network.get_parameter(POSITIONS), expected)


def test_running_statistics_belong_to_a_base(batch_normalised, image, tmp_path):
    network = batch_normalised().train()
    network(image)
    torch.save(network.state_dict(), tmp_path / "base.pt")
    other = batch_normalised()
    load_pretrained(other, str(tmp_path / "base.pt"))
    assert torch.equal(other.eval()(image), network.eval()(image))


def test_a_bias_of_the_attention_has_a_remedy(build, tmp_path):
    torch.save(build(qkv_bias=True).state_dict(), tmp_path / "base.pt")
    with pytest.raises(UserError, match=r"model.qkv_bias=true$"):
        load_pretrained(build(), str(tmp_path / "base.pt"))


def test_a_stored_base_is_named_by_its_hash_whatever_the_task(build, tmp_path):
    two, three = build(), build()
    three.out = build(out_channels=3).out
    assert save_base(two, tmp_path) == save_base(three, tmp_path)
    (path,) = tmp_path.iterdir()
    report = load_pretrained(build(seed=1), str(path))
    assert path.stem == report.base_hash and report.fresh == BACKBONE.head


def test_a_networks_own_weights_can_be_the_base(tiny):
    assert describe_base(tiny).base_hash == base_hash(dict(tiny.named_parameters()), BACKBONE)
    assert adapt(tiny, "tcurlora", rank=2).base.base_hash == describe_base(merge(tiny)).base_hash
