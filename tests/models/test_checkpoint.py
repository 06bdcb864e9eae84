"""The model file: what it holds, how large it is, and which files are refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tcurlora_seg import adapt, load_model, load_pretrained, merged, save_model
from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.data.leakage import UNKNOWN
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.checkpoint import export_notes, read_metadata, trained_on
from tcurlora_seg.models.pretrained import LoadReport, save_base
from tcurlora_seg.models.unetr import BACKBONE, POSITIONS


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def trained(model, stir, **options):
    """An adapted network whose trained tensors are off their start."""
    stir(adapt(model, "tcurlora", rank=2, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not name.startswith("adapters."):
                parameter += 0.01
    return model


def test_it_holds_what_trained_and_what_regenerates_the_rest(tiny, stir, path):
    model = trained(tiny, stir)
    save_model(model, path)
    tensors = load_file(path)
    decoder = {name for name in model.state_dict() if name.startswith(("decoder", "out."))}
    adapters = {f"adapters.{s}.{t}" for s in ("attention", "up", "down") for t in ("core", "rows", "columns")}
    assert set(tensors) == decoder | adapters
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in tensors.items())
    assert tensors["adapters.up.rows"].dtype == torch.int64


def test_fresh_and_resized_tensors_are_kept_although_frozen(build, stir, tmp_path, path, image):
    base = save_base(build(), tmp_path)

    def network(seed):
        model = build(seed=seed, img_size=[32, 32, 64], out_channels=3).eval()
        load_pretrained(model, str(base))
        return model

    model = trained(network(1), stir, trainable=["decoder5.**"])
    save_model(model, path)
    assert {*BACKBONE.head, POSITIONS} <= set(load_file(path))
    x = torch.randn(1, 1, 32, 32, 64)
    twin = adapt(network(2), "tcurlora", rank=2, trainable=["decoder5.**"])
    assert not torch.equal(twin(x), model(x))
    load_model(twin, path)
    assert torch.equal(twin(x), model(x))


def test_a_fresh_weight_under_an_adapter_is_gathered_from_again(build, stir, tmp_path, path, image):
    tensors = load_file(save_base(build(), tmp_path))
    del tensors["vit.blocks.3.attn.qkv.weight"]
    save_file(tensors, tmp_path / "lacking.safetensors")
    networks = [build(seed=seed).eval() for seed in (1, 2)]
    for network in networks:
        load_pretrained(network, str(tmp_path / "lacking.safetensors"), missing=["vit.blocks.3.attn.qkv.weight"])
        stir(adapt(network, "tcurlora", rank=2))
    save_model(networks[0], path)
    load_model(networks[1], path)
    assert torch.equal(networks[1](image), networks[0](image))


def test_metadata_is_read_without_tensors_and_kept_as_given(tiny, stir, path):
    save_model(trained(tiny, stir), path, metadata={"task": "hippocampus", "labels": {"1": [165, 166]}, "seed": 3})
    notes = read_metadata(path)
    assert (notes["task"], notes["labels"], notes["seed"]) == ("hippocampus", {"1": [165, 166]}, 3)
    assert notes["format"] == 1 and notes["base"] == tiny.base.base_hash
    assert notes["stacks"]["attention"] == {"roles": ["q", "k", "v", "o"], "blocks": list(range(12))}
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["tcurlora_seg"]) == notes


def test_the_same_network_gives_the_same_bytes(tiny, stir, tmp_path):
    model = trained(tiny, stir)
    save_model(model, tmp_path / "one", metadata={"b": 1, "a": 2})
    save_model(model, tmp_path / "two", metadata={"a": 2, "b": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_at_the_papers_size_the_adapters_take_30_kb_and_the_file_11_mb(path):
    with torch.device("meta"):
        model = instantiate(OmegaConf.load(config_folder() / "model" / "unetr.yaml"))
        model.base = LoadReport("none", "0" * 64)
        adapt(model, "tcurlora", rank=8)
    for name in ("adapters", "decoder5", "decoder4", "decoder3", "decoder2", "out"):
        model.get_submodule(name).to_empty(device="cpu")
    save_model(model, path)
    with safe_open(path, framework="pt") as file:
        slices = [file.get_tensor(name) for name in file.keys() if name.startswith("adapters.")]  # noqa: SIM118
    assert sum(t.numel() * t.element_size() for t in slices) < 30e3
    assert path.stat().st_size < 11e6


CORE = "adapters.up.core"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop(CORE), f"{CORE} is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is surplus"),
        (lambda t: t.update({CORE: torch.zeros(12, 2, 3)}), f"{CORE} has shape [12, 2, 3] instead of [12, 2, 2]"),
        (lambda t: t.update({CORE: t[CORE].double()}), f"{CORE} is torch.float64 instead of torch.float32"),
        (lambda t: t.update({"adapters.up.rows": t["adapters.up.rows"].int()}), "torch.int32 instead of torch.int64"),
        (lambda t: t[CORE].fill_(torch.nan), f"{CORE} holds values that are not finite"),
        (lambda t: t[BACKBONE.head[1]].fill_(torch.inf), f"{BACKBONE.head[1]} holds values that are not finite"),
        (lambda t: t["adapters.up.rows"].fill_(48), "outside a weight of size 48"),
        (lambda t: t["adapters.up.columns"].fill_(-1), "outside a weight of size 24"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_and_changes_nothing(edit, words, tiny, image, stir, path):
    model = trained(tiny, stir)
    save_model(model, path)
    tensors, notes = load_file(path), {"tcurlora_seg": json.dumps(read_metadata(path))}
    for name in tensors:
        if tensors[name].is_floating_point():
            tensors[name] += 1
    edit(tensors)
    save_file(tensors, path, metadata=notes)
    before = model(image)
    with pytest.raises(UserError) as caught:
        load_model(model, path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(model(image), before)


@pytest.mark.parametrize("options", [{"stacks": {"up": {"roles": ["up"]}}}, {"blocks": [0, 1]}])
def test_other_stacks_are_refused(options, build, stir, path):
    save_model(trained(build(), stir), path)
    with pytest.raises(UserError, match="stacks"):
        load_model(adapt(build(), "tcurlora", rank=2, **options), path)


def test_another_method_is_refused_and_another_option_told(build, stir, path, caplog):
    o = {"stacks": {"o": {"roles": ["o"]}}}
    save_model(stir(adapt(build(), "lora", rank=2, alpha=64.0, **o)), path)
    load_model(adapt(build(), "lora", rank=2, alpha=64.0, **o), path)
    assert not caplog.records
    load_model(adapt(build(), "lora", rank=2, **o), path)
    assert "was trained with alpha=64.0, but this network has alpha=None" in caplog.text
    with pytest.raises(UserError, match="holds LoRA for the stack o, but this network has Bottleneck"):
        load_model(adapt(build(), "bottleneck", rank=2, **o), path)


def test_the_order_of_roles_counts(build, stir, path):
    save_model(trained(build(), stir, stacks={"a": {"roles": ["q", "k"]}}), path)
    with pytest.raises(UserError, match="stacks"):
        load_model(adapt(build(), "tcurlora", rank=2, stacks={"a": {"roles": ["k", "q"]}}), path)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(share, tiny, stir, path):
    model = trained(tiny, stir)
    save_model(model, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="damaged"):
        load_model(model, path)


def test_a_file_of_something_else_is_refused(tiny, stir, path):
    model = trained(tiny, stir)
    with pytest.raises(UserError, match="does not exist"):
        load_model(model, path)
    for metadata in (None, {"format": "pt"}, {"tcurlora_seg": "no json"}, {"tcurlora_seg": '"text"'}):
        save_file({"a": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(UserError, match="no model file of this package"):
            load_model(model, path)
    save_file({"a": torch.zeros(1)}, path, metadata={"tcurlora_seg": '{"format": 99}'})
    with pytest.raises(UserError, match="format 99; this version reads 1"):
        read_metadata(path)


def test_running_statistics_of_a_normalisation_are_kept(batch_normalised, image, stir, path):
    network = batch_normalised()
    other = adapt(copy.deepcopy(network), "tcurlora", rank=2)
    model = trained(network, stir).train()
    model(image)
    save_model(model, path)
    load_model(other, path)
    assert torch.equal(other.eval()(image), model.eval()(image))


def test_a_network_that_is_merged_or_switched_is_not_saved(tiny, path):
    adapt(tiny, "lora", rank=2)
    with merged(tiny), pytest.raises(UserError, match="is merged just now"):
        save_model(tiny, path)
    del tiny.stacks
    with pytest.raises(UserError, match="the network is a Switch's"):
        save_model(tiny, path)


def test_a_network_without_base_or_adapters_is_refused(tiny, path):
    with pytest.raises(UserError, match="no base or no adapters"):
        save_model(tiny, path)
    assert not path.exists()


def test_what_a_base_was_trained_on_is_handed_on_and_unknown_where_no_file_says(tiny, stir, path, tmp_path):
    assert trained_on("builtin") == trained_on("random") == []
    model = trained(tiny, stir)
    save_model(model, path, metadata={"trained_on": ["brats2021"]})
    assert trained_on(str(path)) == ["brats2021"]
    save_file({"a": torch.zeros(1)}, tmp_path / "exported.safetensors", metadata=export_notes(path, ""))
    assert trained_on(str(tmp_path / "exported.safetensors")) == ["brats2021"]
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    for name in ("a.pt", "bare.safetensors", "none.safetensors"):
        assert trained_on(str(tmp_path / name)) == [UNKNOWN]
