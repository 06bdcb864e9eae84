"""A network and a method of one's own, from training to export, with nothing but their own file."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import toy
from programs import TINY, run_script
from safetensors.torch import load_file

import tcurlora_seg
from tcurlora_seg.data.volume import read_header
from tcurlora_seg.errors import UserError

UNETRS = ("img_size", "feature_size", "hidden_size", "mlp_dim", "num_heads", "dropout_rate")
TOY = (*TINY, "model._target_=toy.build_toy", *(f"~model.{key}" for key in UNETRS), "+model.width=8",
       "+model.window=[16,16,16]")  # fmt: skip


@pytest.mark.parametrize("method", ["tcurlora", "full", "decoder_only"])
def test_a_network_of_ones_own_trains_resumes_evaluates_predicts_and_exports(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    def run(name: str, *arguments: str) -> None:
        assert run_script(name, *arguments, monkeypatch=monkeypatch) == 0, capsys.readouterr().err

    folder, trust = tmp_path / "run", "trust=[toy]"
    run("train", *TOY, f"dataset.root={cohort}", f"adapter={method}", "test=null", f"outputs={tmp_path}",
        f"output={folder}", *(["adapter.rank=2"] if method == "tcurlora" else []))  # fmt: skip
    run("train", f"resume={folder}", "trainer.max_steps=3", "test=test", trust)
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 3
    run("evaluate", f"checkpoint={folder}", "split=test", trust)
    image = next(cohort.rglob("*S01*stripped.hdr"))
    run("predict", f"checkpoint={folder}", f"input={image}", f"output={tmp_path / 'maps'}", trust)
    (label,) = (tmp_path / "maps").glob("*.nii.gz")
    assert nib.load(label).shape == read_header(image)[0]
    run("export", f"checkpoint={folder}", f"output={tmp_path / 'plain.safetensors'}", trust)
    arguments = json.loads((tmp_path / "plain.json").read_text())["toy.Toy"]
    plain = toy.Toy(**arguments)
    plain.load_state_dict(load_file(tmp_path / "plain.safetensors"))
    loaded = tcurlora_seg.load_run(folder, device="cpu", trust=["toy"])
    volume = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(loaded.network(volume), plain.eval()(volume))


def test_a_method_of_ones_own_is_loaded_where_its_package_is_trusted_and_nowhere_else(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    own = ["adapter=lora", "adapter.rank=2", "adapter.method._target_=toy.MyLoRA"]
    train = [*TINY, f"dataset.root={cohort}", *own, "test=null", f"outputs={tmp_path}", f"output={folder}"]
    assert run_script("train", *train, monkeypatch=monkeypatch) == 0
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("trust: []", "trust: [toy]"))  # a run cannot trust itself
    export = [f"checkpoint={folder}", f"output={tmp_path / 'a.safetensors'}"]
    resume = [f"resume={folder}", "trainer.max_steps=3"]
    for name, arguments in (("export", export), ("train", resume)):
        assert run_script(name, *arguments, monkeypatch=monkeypatch) == 1
        assert "trust=[toy] admits it" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"toy\.MyLoRA is no part of tcurlora_seg"):
        tcurlora_seg.load_run(folder)
    assert run_script("export", *export, "trust=[toy]", monkeypatch=monkeypatch) == 0
    assert run_script("train", *resume, "trust=[toy]", monkeypatch=monkeypatch) == 0
    network = tcurlora_seg.load_run(folder, device="cpu", trust=["toy"]).network
    assert np.isfinite(sum(float(p.detach().sum()) for p in network.parameters()))
