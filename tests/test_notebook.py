"""What a person meets in a notebook: the page's code runs, names complete, objects are short, mistakes are told."""

from __future__ import annotations

import base64
import html
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from programs import TINY, run_script

import tcurlora_seg
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.errors import UserError

PAGE = Path(__file__).parents[1] / "docs" / "notebook.md"


@pytest.fixture
def folder(trained: list[Path], cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, one of LoRA, and an image, under the names that the page uses."""
    monkeypatch.chdir(tmp_path)
    for run in trained:
        shutil.copytree(run, tmp_path / run.name)
    case = LPBA40(root=str(cohort), preparation=Preparation()).prepare("S01")
    nib.save(nib.Nifti1Image(case.image[0].numpy(), case.image.affine.numpy()), "head.nii.gz")
    settings = (*TINY, f"dataset.root={cohort}", "adapter=lora", "adapter.rank=2", "test=null", f"outputs={tmp_path}")
    assert run_script("train", *settings, f"output={tmp_path / 'lora'}", monkeypatch=monkeypatch) == 0
    return tmp_path


def test_the_pages_code_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plt.switch_backend("agg")
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        names: dict[str, object] = {}
        exec(block, names)
        if "label" in names:
            assert names["label"].shape == nib.load("head.nii.gz").shape  # type: ignore[attr-defined]
    assert (folder / "peft_folder" / "adapter_model.safetensors").is_file()


def test_paths_and_images_give_the_same_label_map(run: Path, folder: Path) -> None:
    loaded, image = tcurlora_seg.load_run(run), nib.load("head.nii.gz")
    expected = np.asarray(loaded.predict(image).dataobj)
    for given in ("head.nii.gz", Path("head.nii.gz"), ["head.nii.gz"], {"t1": "head.nii.gz"}):
        np.testing.assert_array_equal(np.asarray(loaded.predict(given).dataobj), expected)
    np.testing.assert_array_equal(np.asarray(tcurlora_seg.predict([str(run)], "head.nii.gz").dataobj), expected)
    with pytest.raises(UserError, match=r"nowhere\.nii\.gz"):
        loaded.predict("nowhere.nii.gz")
    with pytest.raises(UserError, match=r"nowhere"):
        tcurlora_seg.predict(["nowhere"], "head.nii.gz")


def test_names_complete_and_objects_are_short(run: Path) -> None:
    assert {"load_run", "predict", "Switch", "adapt"} <= set(dir(tcurlora_seg))
    loaded = tcurlora_seg.load_run(run)
    assert repr(loaded) == f"Run({run}: tcurlora, lpba40 hippocampus_lr (t1))"
    shown = loaded._repr_html_()
    assert html.escape(repr(loaded)) in shown
    assert base64.b64decode(shown.partition("base64,")[2].partition('"')[0]).startswith(b"\x89PNG")


def test_a_rank_is_a_number(tiny: object) -> None:
    with pytest.raises(UserError, match="rank='8' is not what was expected: a whole number"):
        tcurlora_seg.adapt(tiny, rank="8")  # type: ignore[arg-type]
