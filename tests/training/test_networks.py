"""The main job with other networks than UNETR: train, go on, score, predict, export, all from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import torch
from hydra.utils import get_class
from networks import need_primus
from programs import TINY, run_script
from safetensors.torch import load_file

from tcurlora_seg import load_run
from tcurlora_seg.data.volume import read_header

WINDOWS = {"swin_unetr_tiny": [32, 32, 64], "primus_tiny": [32, 40, 32]}


@pytest.mark.parametrize("model", WINDOWS)
def test_another_network_trains_resumes_evaluates_predicts_and_exports(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    def run(name: str, *arguments: str) -> None:
        assert run_script(name, *arguments, monkeypatch=monkeypatch) == 0, capsys.readouterr().err

    if model.startswith("primus"):
        need_primus()
    folder = tmp_path / "run"
    light = ["inference.mirror=false", "inference.overlap=0", "data.batch_size=1"]
    run("train", *TINY, f"model={model}", f"window={WINDOWS[model]}", f"dataset.root={cohort}", "adapter.rank=2",
        "test=null", f"outputs={tmp_path}", f"output={folder}", *light)  # fmt: skip
    run("train", f"resume={folder}", "trainer.max_steps=3")
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 3
    image = next(cohort.rglob("*S01*stripped.hdr"))
    run("predict", f"checkpoint={folder}", f"input={image}", f"output={tmp_path / 'maps'}")
    (label,) = (tmp_path / "maps").glob("*.nii.gz")
    assert nib.load(label).shape == read_header(image)[0]
    run("export", f"checkpoint={folder}", f"output={tmp_path / 'plain.safetensors'}")
    ((name, arguments),) = json.loads((tmp_path / "plain.json").read_text()).items()
    plain: Any = get_class(name)(**arguments)
    plain.load_state_dict(load_file(tmp_path / "plain.safetensors"))
    network, volume = load_run(folder, device="cpu").network, torch.randn(1, 1, *WINDOWS[model])
    with torch.no_grad():
        assert torch.equal(network(volume), plain.eval()(volume))
