"""Weights as others save them are read; what could run code is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tcurlora_seg import load_pretrained
from tcurlora_seg.data.notes import listen
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.unetr import BACKBONE
from tcurlora_seg.models.weights_file import read_tensors


@pytest.fixture
def state(build):
    return {name: p.detach().clone() for name, p in build(seed=9).named_parameters() if not BACKBONE.is_unused(name)}


def equal(model, state):
    return all(torch.equal(model.get_parameter(name), tensor) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["", "module.", "net.", "model.", "network.", "_orig_mod.", "model._orig_mod."])
@pytest.mark.parametrize(
    ("name", "wrapper"),
    [
        ("lightning.ckpt", "state_dict"), ("tutorial.pth", "model_state_dict"), ("other.pt", "model_state"),
        ("ignite.pt", "model"), ("nnunet.pth", "network_weights"), ("own.bin", "my_weights"), ("bare.pt", None),
    ],
)  # fmt: skip
def test_wrappers_and_prefixes_are_taken_off_and_it_is_said(tiny, state, tmp_path, name, wrapper, prefix):
    content = {prefix + key: tensor for key, tensor in state.items()}
    more = {"epoch": 3, "best_acc": np.float64(0.8), "steps": np.int64(7), "optimizer": {"state": {}, "groups": [1]}}
    torch.save({**more, wrapper: content} if wrapper else content, tmp_path / name)
    with listen() as heard:
        load_pretrained(tiny, str(tmp_path / name))
    assert equal(tiny, state)
    said = " ".join(heard)
    assert (f"its '{wrapper}' is read" in said) == bool(wrapper)
    assert (f"the prefix '{prefix}' is taken off" in said) == bool(prefix)


def test_a_prefix_that_is_the_networks_own_stays(tmp_path):
    torch.save({"layer.weight": torch.ones(2), "layer.bias": torch.ones(2)}, tmp_path / "a.pt")
    assert set(read_tensors(tmp_path / "a.pt", ["layer.weight", "layer.bias"])) == {"layer.weight", "layer.bias"}
    assert set(read_tensors(tmp_path / "a.pt", ["weight"])) == {"weight", "bias"}


def test_a_linear_patch_embedding_is_the_convolution_that_it_is(build, image, tmp_path):
    from monai.networks.nets import UNETR

    linear = UNETR(in_channels=2, out_channels=2, img_size=(32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=48,
                   num_heads=2, proj_type="perceptron").eval()  # fmt: skip
    torch.save(linear.state_dict(), tmp_path / "linear.pt")
    network = build(in_channels=2).eval()
    load_pretrained(network, str(tmp_path / "linear.pt"))
    pair = torch.cat([image, image.flip(2)], 1)
    with torch.inference_mode():
        torch.testing.assert_close(network(pair), linear(pair), atol=1e-4, rtol=1e-4)


def test_a_whole_pickled_network_is_refused_with_what_to_do(build, tmp_path):
    torch.save(build(), tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"holds a pickled monai.networks.nets.unetr.UNETR, which could run code"):
        read_tensors(tmp_path / "whole.pth")


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(state, tmp_path, capsys):
    torch.save({"state_dict": state, "best_acc": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"holds a pickled \S*print, which could run code"):
        read_tensors(tmp_path / "evil.ckpt")
    assert "executed" not in capsys.readouterr().out
