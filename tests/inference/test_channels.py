"""Several channels in one file, and images that still have their skull: predicted as they were trained and scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hydra.errors import HydraException
from monai.apps import DecathlonDataset
from monai.bundle import ConfigParser
from omegaconf import OmegaConf
from programs import TINY, run_script

from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.export import export_run
from tcurlora_seg.inference.run import load_run

SIZE, NAMES = (34, 36, 33), ("prostate_01", "prostate_02", "prostate_03")


@pytest.fixture(scope="module")
def prostate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon task whose images hold two channels each, in which a bright block is the label."""
    folder = tmp_path_factory.mktemp("data") / "Task05_Prostate"
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True)
    for name in NAMES:
        label = np.zeros(SIZE, np.uint8)
        label[8:20, 6:18, 9:25] = 1
        channels = [(100 + 200 * label * sign + rng.normal(0, 20, SIZE)).clip(1) for sign in (1, -0.4)]
        nib.save(nib.Nifti1Image(np.stack(channels, -1).astype(np.float32), affine), folder / f"imagesTr/{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / f"labelsTr/{name}.nii.gz")
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in NAMES]
    listed = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "gland"}, "training": training}
    (folder / "dataset.json").write_text(json.dumps(listed))
    return folder


def train(folder: Path, *arguments: str) -> Path:
    run = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert run_script("train", *TINY, *arguments, "adapter.rank=2", f"outputs={folder}", f"output={run}",
                          monkeypatch=patch) == 0  # fmt: skip
    return run


@pytest.fixture(scope="module")
def prostate_run(prostate: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"), "dataset=decathlon", "dataset.task=Task05_Prostate",
                 f"dataset.root={prostate.parent}", "dataset.preparation.crop_to_brain=false")  # fmt: skip


def upright(path: Path) -> np.ndarray:
    return np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj)


@pytest.fixture
def predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that runs the script; gives the output folder."""

    def predict(run: Path, given: Path) -> Path:
        assert run_script("predict", f"checkpoint={run}", f"input={given}", f"output={tmp_path / 'out'}", "device=cpu",
                          monkeypatch=monkeypatch) == 0  # fmt: skip
        return tmp_path / "out"

    return predict


@pytest.mark.parametrize("given", ["imagesTr", "manifest.json", "imagesTr/{case}.nii.gz"])
def test_a_file_of_all_channels_gets_the_label_map_of_the_evaluation(
    prostate: Path, prostate_run: Path, predicted: Callable[..., Path], given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = (prostate_run / "evaluation" / "test" / "predictions").glob("*.nii.gz")
    root = f"dataset.root={prostate.parent}"
    if given == "manifest.json":
        assert run_script("prepare_data", "dataset=decathlon", "dataset.task=Task05_Prostate", root,
                          f"output={prostate}", "dataset.preparation.crop_to_brain=false",
                          monkeypatch=monkeypatch) == 0  # fmt: skip
    out = predicted(prostate_run, prostate / given.format(case=expected.name.removesuffix(".nii.gz")))
    np.testing.assert_array_equal(upright(out / expected.name), upright(expected))
    assert len(np.unique(upright(expected))) == 2


def test_files_named_as_nnu_net_names_channels_are_read(
    prostate: Path, prostate_run: Path, predicted: Callable[..., Path], tmp_path: Path
) -> None:
    (expected,) = (prostate_run / "evaluation" / "test" / "predictions").glob("*.nii.gz")
    case, both = expected.name.removesuffix(".nii.gz"), nib.load(prostate / "imagesTr" / expected.name)
    for number in (0, 1):
        channel = nib.Nifti1Image(np.asanyarray(both.dataobj)[..., number], both.affine)
        (tmp_path / "raw").mkdir(exist_ok=True)
        nib.save(channel, tmp_path / "raw" / f"{case}_{number:04}.nii.gz")
    out = predicted(prostate_run, tmp_path / "raw")
    np.testing.assert_array_equal(upright(out / expected.name), upright(expected))
    (tmp_path / "whole").mkdir()
    for id in ("p_0001", "p_0002", "p_0003"):  # cases, each of which holds both channels
        nib.save(both, tmp_path / "whole" / f"{id}.nii.gz")
        out = predicted(prostate_run, tmp_path / "whole")
        np.testing.assert_array_equal(upright(out / f"{id}.nii.gz"), upright(expected))


def test_a_bundle_reads_a_file_of_all_channels(
    prostate: Path, prostate_run: Path, tmp_path: Path, predicted: Callable[..., Path]
) -> None:
    """A folder of them, with what `predict` gives beside it."""
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(prostate / "imagesTr" / "prostate_01.nii.gz", images)
    export_run(checkpoint=str(prostate_run), output=str(tmp_path / "bundle"), format="bundle")
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle" / "configs" / "inference.json")
    parser.update({"bundle_root": str(tmp_path / "bundle"), "input": str(images),
                   "output_dir": str(tmp_path / "theirs"), "device": "$torch.device('cpu')"})  # fmt: skip
    parser.get_parsed_content("run")
    ours = upright(predicted(prostate_run, images) / "prostate_01.nii.gz")
    assert np.mean(upright(tmp_path / "theirs" / "prostate_01.nii.gz") != ours) < 1e-4  # ties that rounding decides


def test_a_run_predicts_and_exports_where_its_training_data_are_not_and_fetches_nothing(
    prostate: Path, prostate_run: Path, tmp_path: Path, predicted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it was trained with dataset.download=true."""
    image = prostate / "imagesTr" / "prostate_01.nii.gz"
    expected = load_run(prostate_run, device="cpu").predict(nib.load(image))
    moved = Path(shutil.copytree(prostate_run, tmp_path / "moved"))
    config = OmegaConf.load(moved / "config.yaml")
    config.dataset.root, config.dataset.download = str(tmp_path / "gone"), True
    OmegaConf.save(config, moved / "config.yaml")
    monkeypatch.setitem(DecathlonDataset.resource, "Task05_Prostate", (tmp_path / "none.tar").as_uri())
    out = predicted(moved, image)
    np.testing.assert_array_equal(np.asanyarray(nib.load(out / image.name).dataobj), np.asanyarray(expected.dataobj))
    assert json.loads((out / "labels.json").read_text())["structures"] == {"gland": [1]}
    export_run(checkpoint=str(moved), output=str(tmp_path / "unetr.safetensors"))
    with pytest.raises(UserError, match=r"dataset.root=.*gone/Task05_Prostate does not exist"):
        load_run(moved, device="cpu").cases("test")
    del config.dataset.contents
    OmegaConf.save(config, moved / "config.yaml")
    with pytest.raises(HydraException, match=r"there is no .*Task05_Prostate/dataset.json"):
        load_run(moved, device="cpu")
    assert not (tmp_path / "gone").exists()


def test_an_image_of_other_channels_is_named(
    prostate: Path, prostate_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flat = nib.load(next((prostate / "labelsTr").iterdir()))
    nib.save(flat, tmp_path / "flat.nii")
    assert run_script("predict", f"checkpoint={prostate_run}", f"input={tmp_path / 'flat.nii'}",
                      f"output={tmp_path / 'out'}", "device=cpu", monkeypatch=monkeypatch) == 1  # fmt: skip
    assert "flat.nii holds 1 volume(s); expected 2 (t2, adc)" in capsys.readouterr().err


def test_a_skull_is_cut_away_by_the_manifests_mask_as_in_training(
    tmp_path: Path, predicted: Callable[..., Path]
) -> None:
    simulate("eadc_adni", tmp_path / "data", subjects=7, seed=0, spacing=6.0)
    run = train(tmp_path, "dataset=eadc_adni", f"dataset.root={tmp_path / 'data'}")
    listed = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert all(case["mask"] for case in listed["cases"])
    out = predicted(run, tmp_path / "data" / "manifest.json")
    for path in sorted((run / "evaluation" / "test" / "predictions").glob("*.nii.gz")):
        np.testing.assert_array_equal(upright(out / path.name) > 0, upright(path) > 0)
        assert upright(path).any()
