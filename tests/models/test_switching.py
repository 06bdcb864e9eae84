"""Several models on one base: turning from one to another and back, scaling, adding."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tcurlora_seg import Switch, adapt, load_pretrained, merge, merged, save_model
from tcurlora_seg.adapters.lora import LoRA
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.checkpoint import read_metadata
from tcurlora_seg.models.injection import inject
from tcurlora_seg.models.pretrained import save_base
from tcurlora_seg.models.stacking import stacks_for

MODELS = {  # method, classes
    "curls": ("tcurlora", 2, {"rank": 2}),
    "loras": ("lora", 5, {"rank": 2}),
    "scales": ("ssf", 2, {}),
    "biases": ("bitfit", 2, {}),
}


@pytest.fixture(scope="module")
def saved(build, stir, image, tmp_path_factory):
    """The base's file, a model file for each of MODELS, and what each network gives for the image."""
    folder = tmp_path_factory.mktemp("models")
    base, logits = save_base(build(), folder), {}
    for seed, (name, (method, classes, options)) in enumerate(MODELS.items(), 1):
        network = build(seed=seed, out_channels=classes).eval()
        load_pretrained(network, str(base))
        stir(adapt(network, method, **options), size=0.1)
        with torch.no_grad():
            for parameter in (p for n, p in network.named_parameters() if p.requires_grad and "adapters" not in n):
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            logits[name] = network(image)
        save_model(network, folder / f"{name}.safetensors")
    return folder, base, logits


@pytest.fixture
def switch(saved, build):
    folder, base, _ = saved
    network = build(seed=9).eval()
    load_pretrained(network, str(base))
    switch = Switch(network)
    for name in MODELS:
        switch.add(name, folder / f"{name}.safetensors")
    return switch


def test_every_model_gives_the_bits_it_was_saved_with_in_any_order_and_so_does_the_base(saved, build, switch, image):
    fresh = build(seed=9).eval()
    load_pretrained(fresh, str(saved[1]))
    base = fresh(image)
    state = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    for name in ("loras", None, "curls", "scales", "biases", "loras", "curls", None):
        switch.use(name)
        assert torch.equal(switch.network(image), base if name is None else saved[2][name])
    assert all(torch.equal(tensor, state[name]) for name, tensor in switch.network.state_dict().items())


def test_no_tensor_of_the_base_is_copied_or_moved(switch):
    before = {name: p.data_ptr() for name, p in switch.network.named_parameters()}
    switch.use("curls")
    now = {name: p.data_ptr() for name, p in switch.network.named_parameters() if name in before}
    assert {name for name in before if before[name] != now[name]} == {
        name for name in before if name.startswith(("decoder", "out."))
    }
    assert not any(p.requires_grad for p in switch.network.parameters())


def test_switching_follows_the_network_to_another_precision(switch, saved, image):
    network = switch.network.double()
    for name in ("curls", "loras", None, "curls"):
        switch.use(name)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
        assert network(image.double()).dtype == torch.float64
    network.float()
    for name in ("loras", "scales"):
        switch.use(name)
        assert torch.equal(network(image), saved[2][name])


def test_switching_follows_the_network_to_another_device(switch):
    """A device without numbers stands for another one."""
    network = switch.network.to("meta")
    for name in ("curls", "biases", None):
        switch.use(name)
        assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}


def test_what_the_classes_stand_for_is_that_of_the_decoders_file(saved, build, image, tmp_path):
    network = build(seed=9).eval()
    load_pretrained(network, str(saved[1]))
    switch = Switch(network)
    for name, value in (("a", 7), ("b", 9)):
        adapted = adapt(copy.deepcopy(network), "lora", rank=2)
        save_model(adapted, tmp_path / name, metadata={"label_map": {"1": [value]}})
        switch.add(name, tmp_path / name)
    assert switch.label_map == {}
    switch.use("a")
    assert switch.label_map == {"1": [7]}
    switch.use({"a": 0.5, "b": 0.5}, decoder="b")
    assert switch.label_map == {"1": [9]}


def test_a_scaled_model_adds_that_much_of_every_update_and_keeps_its_decoder(switch, distance):
    network = switch.network
    switch.use(None)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    switch.use("scales")
    whole = dict(merge(network).named_parameters())
    switch.use({"scales": 0.5})
    half = dict(merge(network).named_parameters())
    for name, tensor in half.items():
        if name.startswith("vit."):
            start = before.get(name, torch.zeros_like(tensor))
            assert torch.allclose(tensor - start, (whole[name] - start) / 2, atol=1e-6), name
        else:
            assert torch.equal(tensor, whole[name]), name


def test_a_weighted_sum_adds_the_updates_and_takes_one_decoder(switch, image, distance):
    network, parts = switch.network, {}
    for name in ("curls", "loras", None):
        switch.use(name)
        parts[name] = dict(merge(network).named_parameters())
    switch.use({"curls": 0.7, "loras": -0.3}, decoder="loras")
    total = dict(merge(network).named_parameters())
    for name, tensor in total.items():
        if name.startswith("vit."):
            base = parts[None][name]
            expected = base + 0.7 * (parts["curls"][name] - base) - 0.3 * (parts["loras"][name] - base)
            assert torch.allclose(tensor, expected, atol=1e-6), name
        else:
            assert torch.equal(tensor, parts["loras"][name]), name
    logits = network(image)
    assert logits.shape[1] == 5 and distance(merge(network)(image), logits) < 1e-5
    with merged(network):
        assert distance(network(image), logits) < 1e-5
    assert torch.equal(copy.deepcopy(network)(image), logits)


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        ("lora", {}, "no model 'lora' to switch to: curls, loras, scales, biases"),
        ({"curls": 1.0}, {"decoder": "x"}, "no model 'x'"),
        ({"curls": 1.0, "loras": 1.0}, {}, "decoder= is needed"),
        ({"biases": 0.5}, {}, "'biases' has no updates to scale or add"),
        ({"biases": 1.0, "curls": 1.0}, {"decoder": "curls"}, "'biases' has no updates to scale or add"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_and_changes_nothing(models, options, words, switch, saved, image):
    switch.use("curls")
    with pytest.raises(UserError, match=words):
        switch.use(models, **options)
    assert torch.equal(switch.network(image), saved[2]["curls"])


def test_a_file_that_cannot_be_added_leaves_the_plain_base(saved, build, tiny, image, tmp_path):
    folder, base, _ = saved
    network = build(seed=9).eval()
    with pytest.raises(UserError, match="load_pretrained"):
        Switch(network)
    load_pretrained(network, str(base))
    before, switch = network(image), Switch(network)
    for name in ("a b", "curls"):
        switch.add("curls", folder / "curls.safetensors") if name == "curls" else None
        with pytest.raises(UserError, match=f"'{name}' is taken, or no single word"):
            switch.add(name, folder / "curls.safetensors")
    save_model(adapt(copy.deepcopy(tiny), "lora", rank=2, trainable=["out.**"]), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was trained on the base"):
        switch.add("other", tmp_path / "other.safetensors")
    own = build(seed=9)
    load_pretrained(own, str(base))
    (stack,) = stacks_for(own, ["up"])
    inject(own, {"up": (stack, lambda *a, **k: LoRA(*a, rank=2, **k))}, trainable=["out.**"], seed=0)
    save_model(own, tmp_path / "own.safetensors")
    with pytest.raises(UserError, match="does not say how its adapters are made"):
        switch.add("own", tmp_path / "own.safetensors")
    assert torch.equal(network(image), before)


def test_a_file_imports_nothing_that_is_not_trusted(saved, switch, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    source = saved[0] / "loras.safetensors"
    notes = read_metadata(source)
    notes["adapter"]["method"]["_target_"] = "evil.Method"
    save_file(load_file(source), tmp_path / "x.safetensors", metadata={"tcurlora_seg": json.dumps(notes)})
    with pytest.raises(UserError, match=r"evil.Method"):
        switch.add("evil", tmp_path / "x.safetensors")


def test_it_tells_what_is_in_use_in_a_line(switch):
    assert repr(switch) == "Switch(in use: the base; models: curls, loras, scales, biases)"
    switch.use({"curls": 0.5, "loras": 1}, decoder="curls")
    assert repr(switch).startswith("Switch(in use: 0.5 curls + loras; models: curls")
