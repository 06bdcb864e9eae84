"""What is exported does the same with MONAI alone as the run does here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, verify_net_in_out
from monai.data import MetaTensor
from monai.networks.nets import UNETR
from omegaconf import OmegaConf
from programs import run_script
from safetensors.torch import load_file, save_file
from torch import nn

from tcurlora_seg.config.checks import check_evaluation
from tcurlora_seg.data import intensity
from tcurlora_seg.data.task import Task
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.bundle import _preprocessing, bundle_metadata, write_bundle
from tcurlora_seg.inference.export import cast, export_run
from tcurlora_seg.inference.run import load_run
from tcurlora_seg.models.injection import merge


@pytest.fixture(scope="module")
def head(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A held-out head as a NIfTI file, LPS, so that the way back matters."""
    array, affine = read_volume(next(cohort.rglob("S06*skullstripped.hdr")))
    image = nib.Nifti1Image(array.astype(np.float32), affine)
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt("LPS"))
    path = tmp_path_factory.mktemp("image") / "head.nii.gz"
    nib.save(image.as_reoriented(change), path)
    return path


def variant(run: Path, folder: Path, **preparation: object) -> Path:
    """The run as if it had another preparation."""
    shutil.copytree(run, folder)
    config = OmegaConf.load(folder / "config.yaml")
    config.dataset.preparation.update(preparation)
    OmegaConf.save(config, folder / "config.yaml")
    return folder


def labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image.affine


def test_monais_own_unetr_loads_the_state_dict_strictly_and_predicts_the_same(
    run: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_run(run, device="cpu")
    expected = np.asanyarray(here.predict(nib.load(head)).dataobj)
    for name in ("unetr.safetensors", "unetr.pt"):
        path = tmp_path / name
        assert run_script("export", f"checkpoint={run}", f"output={path}", monkeypatch=monkeypatch) == 0
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        network = UNETR(**json.loads(path.with_suffix(".json").read_text())["monai.networks.nets.UNETR"])
        network.load_state_dict(tensors, strict=True)
        again = replace(here, network=network).predict(nib.load(head))
        np.testing.assert_array_equal(np.asanyarray(again.dataobj), expected)


def test_exported_weights_predict_and_export_like_their_run_and_name_no_folder_of_it(
    run: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, again = tmp_path / "weights.safetensors", tmp_path / "again.safetensors"
    export_run(checkpoint=str(run), output=str(path))
    here, there = load_run(run, device="cpu"), load_run(path, device="cpu")
    expected, found = (np.asanyarray(r.predict(nib.load(head)).dataobj) for r in (here, there))
    np.testing.assert_array_equal(found, expected)
    assert (there.spacing, there.typical, there.arguments) == (here.spacing, here.typical, here.arguments)
    assert str(here.dataset.root).encode() not in path.read_bytes()
    assert run_script("export", f"checkpoint={path}", f"output={again}", monkeypatch=monkeypatch) == 0
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match="exported weights, which know no split"):
        there.cases("test")
    with pytest.raises(UserError, match="exported weights, which know no split"):  # before anything is loaded
        check_evaluation(OmegaConf.create({"checkpoint": str(path), "predictions": None}))


def test_weights_that_say_nothing_of_their_task_are_refused_as_a_checkpoint(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors", {"tcurlora_seg": '{"format": 1, "trained_on": []}'})
    with pytest.raises(UserError, match="holds weights alone"):
        load_run(tmp_path / "bare.safetensors", device="cpu")


def test_half_precision_rounds_weights_and_no_indices() -> None:
    """SwinUNETR has indices up to 2196; above 2048 float16 has even numbers alone."""
    state = cast({"weight": torch.ones(2), "index": torch.tensor([2195])}, torch.float16)
    assert state["weight"].dtype == torch.float16 and state["index"].tolist() == [2195]


def test_a_torchscript_file_gives_the_same_logits(run: Path, tmp_path: Path) -> None:
    export_run(checkpoint=str(run), output=str(tmp_path / "unetr.ts"), format="torchscript")
    window = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        traced = torch.jit.load(tmp_path / "unetr.ts")(window)
        torch.testing.assert_close(traced, load_run(run, device="cpu").network(window), atol=1e-5, rtol=1e-5)


def test_biases_of_some_blocks_become_biases_of_all(run: Path) -> None:
    here = load_run(run, device="cpu")
    qkv = here.network.get_submodule("vit.blocks.3.attn.qkv")
    qkv.bias = nn.Parameter(torch.randn(qkv.out_features))  # type: ignore[union-attr, arg-type]
    window = torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        expected = here.network(window)
    whole = replace(here, network=merge(here.network))
    plain = UNETR(**whole.arguments).eval()
    plain.load_state_dict(whole.network.state_dict(), strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(plain(window), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "preparation",
    [
        {},
        {"spacing": [5.0, 7.0, 6.0]},
        {"crop_to_brain": False, "intensity": "window", "limits": [10.0, 60.0]},
        {"intensity": "percentiles", "limits": [2.0, 98.0]},
    ],
)
def test_a_bundle_gives_the_label_map_of_the_run(
    run: Path, head: Path, tmp_path: Path, preparation: dict[str, object]
) -> None:
    other = variant(run, tmp_path / "run", **preparation)
    export_run(checkpoint=str(other), output=str(tmp_path / "bundle"), format="bundle", mirror=False)
    expected = load_run(other, device="cpu", mirror=False).predict(nib.load(head))
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle" / "configs" / "inference.json")
    parser.update({"bundle_root": str(tmp_path / "bundle"), "input": str(head), "output_dir": str(tmp_path / "out"),
                   "device": "$torch.device('cpu')"})  # fmt: skip
    parser.get_parsed_content("run")
    array, affine = labels(tmp_path / "out" / "head.nii.gz")
    assert np.mean(array != np.asanyarray(expected.dataobj)) < 1e-4  # ties that rounding decides
    np.testing.assert_allclose(affine, expected.affine)


@pytest.mark.parametrize("change", ["finer voxels", "z-scores", "another field of view", "microns"])
def test_a_bundle_and_predict_agree_on_an_image_unlike_the_training_images(
    run: Path, head: Path, tmp_path: Path, change: str
) -> None:
    """Of other spacing, orientation, intensities or field of view."""
    image = nib.load(head)
    array, affine = np.asanyarray(image.dataobj), image.affine.copy()
    if change == "finer voxels":
        array, affine = np.repeat(array, 2, axis=1), affine @ np.diag([1, 0.5, 1.3, 1])
    elif change == "z-scores":
        array = np.where(array > 0, (array - array[array > 0].mean()) / array[array > 0].std(), 0)
    elif change == "another field of view":
        array = np.pad(array[4:], ((0, 0), (5, 0), (0, 9)))
    other = nib.Nifti1Image(array.astype(np.float32), affine).as_reoriented([[2, 1], [0, -1], [1, 1]])
    if change == "microns":
        other = nib.Nifti1Image(np.asanyarray(other.dataobj), np.diag([1000, 1000, 1000, 1]) @ other.affine)
        other.header.set_xyzt_units("micron")
    nib.save(other, tmp_path / "head.nii.gz")
    export_run(checkpoint=str(run), output=str(tmp_path / "bundle"), format="bundle", mirror=False)
    expected = load_run(run, device="cpu", mirror=False).predict(nib.load(tmp_path / "head.nii.gz"))
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle" / "configs" / "inference.json")
    parser.update({"bundle_root": str(tmp_path / "bundle"), "input": str(tmp_path / "head.nii.gz"),
                   "output_dir": str(tmp_path / "out"), "device": "$torch.device('cpu')"})  # fmt: skip
    parser.get_parsed_content("run")
    array, there = labels(tmp_path / "out" / "head.nii.gz")
    np.testing.assert_allclose(there, other.affine, rtol=1e-5)
    assert len(np.unique(array)) == 3
    assert np.mean(array == np.asanyarray(expected.dataobj)) > 0.999


def test_the_bundle_runs_by_itself_and_gives_the_label_map_of_predict(
    run: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With mirroring that swaps left and right, in a process that cannot import this package."""
    bundle = tmp_path / "bundle"
    assert run_script("export", f"checkpoint={run}", "format=bundle", f"output={bundle}", monkeypatch=monkeypatch) == 0
    assert run_script("predict", f"checkpoint={run}", f"input={head}", f"output={tmp_path / 'ours'}", "device=cpu",
                      monkeypatch=monkeypatch) == 0  # fmt: skip
    (tmp_path / "tcurlora_seg").mkdir()
    (tmp_path / "tcurlora_seg" / "__init__.py").write_text("raise ImportError('not here')")
    options = {"config_file": "configs/inference.json", "meta_file": "configs/metadata.json", "bundle_root": ".",
               "input": head, "output_dir": tmp_path / "theirs"}  # fmt: skip
    command = [sys.executable, "-m", "monai.bundle", "run", *(f"--{key}={value}" for key, value in options.items())]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1",
                   "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (array, affine), (expected, there) = (labels(tmp_path / w / "head.nii.gz") for w in ("theirs", "ours"))
    assert len(np.unique(expected)) == 3 and array.dtype == expected.dtype
    assert np.mean(array != expected) < 1e-4  # ties that rounding decides
    np.testing.assert_allclose(affine, there)


def test_monai_accepts_the_bundles_shapes_and_every_field_of_its_specification_is_there(
    run: Path, tmp_path: Path
) -> None:
    export_run(checkpoint=str(run), output=str(tmp_path / "bundle"), format="bundle")
    configs = tmp_path / "bundle" / "configs"
    verify_net_in_out(net_id="network_def", meta_file=str(configs / "metadata.json"), device="cpu",
                      config_file=str(configs / "inference.json"))  # fmt: skip
    metadata = json.loads((configs / "metadata.json").read_text())
    assert {"version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
            "task", "description", "authors", "copyright", "network_data_format",
            "schema"} <= set(metadata)  # fmt: skip
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        assert {"type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range",
                "is_patch_data", "channel_def"} <= set(metadata["network_data_format"][side][name])  # fmt: skip
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["2"] == "right_hippocampus"
    assert "simulated" in metadata["description"]
    for name in ("models/model.pt", "docs/README.md", "LICENSE"):
        assert (tmp_path / "bundle" / name).stat().st_size > 100


def test_a_bundle_of_a_simulated_cohort_says_so_when_the_data_are_gone(
    trained: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run has scores, the second one none."""
    for number, run in enumerate(trained):
        moved = Path(shutil.copytree(run, tmp_path / f"run{number}"))
        config = OmegaConf.load(moved / "config.yaml")
        config.dataset.root = str(tmp_path / "gone")
        OmegaConf.save(config, moved / "config.yaml")
        assert "simulated" in bundle_metadata(load_run(moved, device="cpu"), "UNETR")["description"]
    seen = {"lpba40": True, "brats2021": False, "decathlon": False}
    monkeypatch.setattr("tcurlora_seg.inference.run.trained_on", lambda _: ["brats2021", "decathlon/Task04"])
    for name, simulated in seen.items():
        unscored = load_run(tmp_path / "run1", device="cpu")
        unscored.dataset.name = name
        assert unscored.simulated == simulated
    scores = json.loads((tmp_path / "run0" / "metrics.json").read_text())
    scores["scores"]["simulated"] = None
    (tmp_path / "run0" / "metrics.json").write_text(json.dumps(scores))
    again = bundle_metadata(load_run(tmp_path / "run0", device="cpu"), "UNETR")
    assert "simulated" not in again["description"]


def test_a_bundle_takes_percentiles_of_large_volumes(run: Path, tmp_path: Path) -> None:
    """More than 2^24 voxels, where `torch.quantile` gives up."""
    here = load_run(variant(run, tmp_path / "run", intensity="percentiles", limits=[25.0, 75.0]), device="cpu")
    steps = _preprocessing(here)
    parser = ConfigParser({"intensity": vars(intensity), "note": steps[3], "scale": steps[-1]})
    image = torch.arange(2.0**24 + 1)[None, :, None, None] + 1
    noted = parser.get_parsed_content("note")({"image": MetaTensor(image)})
    scaled = parser.get_parsed_content("scale")(noted)["image"].as_tensor()
    expected = ((image / len(image[0]) - 0.25) / 0.5).clamp(0, 1)
    torch.testing.assert_close(scaled, expected, atol=1e-5, rtol=0)


def test_a_bundle_is_refused_whose_label_values_monai_would_round(run: Path, tmp_path: Path) -> None:
    here = load_run(run, device="cpu")
    here.dataset.task = Task.of_classes("atlas", {"a": [2**24 + 1], "b": [3]})
    with pytest.raises(UserError, match="rounds the value 16777217"):
        write_bundle(here, tmp_path / "bundle", {}, "monai.networks.nets.UNETR")


@pytest.mark.parametrize(("key", "value"), [("second_look", True), ("min_share", 0.1), ("largest_pieces", 2)])
def test_a_bundle_is_refused_of_a_run_that_does_more_than_monai_can(
    run: Path, tmp_path: Path, key: str, value: float
) -> None:
    here = load_run(run, device="cpu", **{key: value})
    with pytest.raises(UserError, match=f"has inference.{key}={value}, which a bundle cannot do"):
        write_bundle(here, tmp_path / "bundle", {}, "monai.networks.nets.UNETR")


@pytest.fixture
def fails(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def export(*arguments: str) -> str:
        assert run_script("export", f"checkpoint={run}", *arguments, monkeypatch=monkeypatch) == 1
        return capsys.readouterr().err

    return export


def test_mistakes_are_told(run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "mine.pt").write_text("x")
    assert "mine.pt exists" in fails(f"output={tmp_path / 'mine.pt'}")
    assert ".safetensors or .pt is needed" in fails(f"output={tmp_path / 'a.onnx'}")
    assert ".ts or .pt is needed" in fails(f"output={tmp_path / 'a.safetensors'}", "format=torchscript")
    assert "choose from state_dict, torchscript, bundle" in fails(f"output={tmp_path / 'a'}", "format=onnx")
    assert "goes with format=state_dict" in fails(f"output={tmp_path / 'a'}", "format=bundle", "dtype=float16")
    assert "choose from float32, float16" in fails(f"output={tmp_path / 'a.pt'}", "dtype=int8")
    (tmp_path / "b.json").write_text("{}")
    assert "b.json exists and describes something else" in fails(f"output={tmp_path / 'b.safetensors'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "mine.pt"]
