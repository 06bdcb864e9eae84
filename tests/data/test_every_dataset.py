"""From a data folder to scores, for every data set: the commands that a person types, at the smallest size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from defects import simulate_with_defects
from programs import TINY, run_script

from tcurlora_seg.data.manifest import load_manifest, write_manifest
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.data.simulate.cohorts import COHORTS

FAST = (*TINY, "adapter=tcurlora", "adapter.rank=2", "data.batch_size=1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    def call(name: str, *arguments: object) -> int:
        extra = (f"outputs={tmp_path / 'outputs'}",) if name == "train" else ()
        return run_script(name, *extra, *map(str, arguments), monkeypatch=monkeypatch)

    return call


@pytest.mark.parametrize("name", COHORTS)
def test_check_train_and_evaluate_with_every_defect_planted(
    name: str, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = tmp_path / "data", tmp_path / "run"
    data = (f"dataset={name}", f"dataset.root={root}")
    simulated, planted, _ = simulate_with_defects(name, root, subjects=6, spacing=8)
    assert run("prepare_data", *data, "workers=1", "split.scheme=shots", "split.shots=2") == 0
    shown = capsys.readouterr().out
    checked = load_manifest(root / "manifest.json")
    assert checked.cases == simulated.cases and len(checked.excluded) == len(planted)
    assert f"left out ({len(planted)})" in shown
    told = json.loads((root / "check_report.json").read_text())["left_out"]
    for path in planted:  # a file that is missing is told by what it would belong to
        (id,) = (id for id, why in told.items() if path in why or id in path)
        assert id in shown
    assert run("train", *FAST, *data, "split.scheme=shots2_seed0", "test=null", f"output={output}") == 0
    assert json.loads((output / "split.json").read_text())["train"] == list(checked.splits["shots2_seed0"].train)
    assert run("evaluate", f"checkpoint={output}", "split=train", "overlap=0", "mirror=false") == 0
    assert json.loads((output / "evaluation/train/summary.json").read_text())["simulated"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lpba40")
    simulate("lpba40", root, subjects=2, spacing=8.0)
    return root


def _empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def _a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("LPBA40.zip")


def _moved(root: Path) -> None:
    (root / "LPBA40").rename(root / "elsewhere")


def _renumbered(root: Path) -> None:
    import gzip

    for path in root.rglob("*structure.label.img.gz"):
        voxels = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(bytes(min(value, 54) for value in voxels)))


def _nothing(root: Path) -> None: ...


@pytest.mark.parametrize(
    ("script", "harm", "words"),
    [
        ("prepare_data", _empty, "is empty. The real images: LPBA40's 'delineation space' archive"),
        ("prepare_data", _a_file, "is a file; expected the folder that holds LPBA40/delineation_space"),
        ("prepare_data", _moved, "nothing under dataset.root="),
        ("prepare_data", _renumbered, "no case under dataset.root="),
        ("train", _empty, "is empty. The real images"),
        ("train", _a_file, "is a file; expected the folder"),
        ("train", _moved, "if the files have moved, set dataset.root or write the manifest again"),
        ("train", _renumbered, "they look renumbered to 1..54"),
        ("train", _nothing, "trains on 5 patients and tests on the others, but there are only 2"),
    ],
)
def test_a_bad_root_is_one_line(
    script: str, harm: Callable[[Path], None], words: str, cohort: Path, tmp_path: Path, run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = Path(shutil.copytree(cohort, tmp_path / "root"))
    harm(root)
    scheme = ["split.scheme=shots", "split.shots=1"] if harm is _renumbered else []
    arguments = (*FAST, *scheme, "test=null") if script == "train" else ("workers=1",)
    assert run(script, "dataset=lpba40", f"dataset.root={root}", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1 and words in error, error


def make_real(root: Path) -> None:
    """Let a simulated cohort pass for the real data set."""
    from dataclasses import replace

    path = root / "manifest.json"
    write_manifest(replace(load_manifest(path), simulated=None), path)
    (root / "SIMULATED.txt").unlink()


def test_patients_that_the_base_was_trained_on_are_not_tested_on(
    tmp_path: Path, run: Callable[..., int], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    brats, upenn, base = tmp_path / "brats", tmp_path / "upenn", tmp_path / "base"
    simulate("brats2021", brats, subjects=2, spacing=8.0)
    simulate("upenn_gbm", upenn, subjects=4, spacing=8.0)
    make_real(brats)
    make_real(upenn)
    few = ("split.scheme=shots", "split.shots=1", "test=null")
    once = (*TINY, *few, "trainer.max_steps=1")
    assert run("train", *once, "dataset=brats2021", f"dataset.root={brats}", "adapter=full", f"output={base}") == 0
    assert run("export", f"checkpoint={base}", f"output={tmp_path / 'base.safetensors'}") == 0
    weights = f"pretrained={tmp_path / 'base.safetensors'}"
    chain = (*once, "adapter=decoder_only", "dataset=upenn_gbm", f"dataset.root={upenn}", weights)
    assert run("train", *chain, f"output={tmp_path / 'blind'}") == 0
    assert "the base network was trained on brats2021" in caplog.text
    capsys.readouterr()
    crosswalk = tmp_path / "map.csv"
    crosswalk.write_text("TCIA,BraTS\nUPENN-GBM-00002,BraTS2021_00000\nUPENN-GBM-00009,BraTS2021_00001\n")
    assert run("train", *chain, f"dataset.crosswalk={crosswalk}", f"output={tmp_path / 'apart'}") == 0
    assert "left out 1 case(s) that the base network was trained on" in capsys.readouterr().out
    split = json.loads((tmp_path / "apart" / "split.json").read_text())
    assert len(split["train"] + split["test"]) == 3 and "UPENN-GBM-00002_11" not in str(split)
    assert list(json.loads((tmp_path / "apart" / "metrics.json").read_text())["left_out"]) == ["UPENN-GBM-00002_11"]


def test_no_test_case_is_opened_before_training_is_over(
    tmp_path: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing can be chosen by it: not the best epoch, not when to stop, not what a sweep optimises."""
    from tcurlora_seg.data.datasets.base import SegmentationDataset

    simulate("lpba40", tmp_path / "data", subjects=4, spacing=8.0)
    opened: list[str] = []
    prepare = SegmentationDataset.prepare
    monkeypatch.setattr(SegmentationDataset, "prepare", lambda self, id: (opened.append(id), prepare(self, id))[1])
    data = ("dataset=lpba40", f"dataset.root={tmp_path / 'data'}", f"output={tmp_path / 'run'}")
    split = ("split.scheme=shots", "split.shots=2", "split.validation=1")
    choosing = ("training.patience=1", "training.average_last=0", "test=null")
    assert run("train", *FAST, *data, *split, *choosing) == 0
    sides = json.loads((tmp_path / "run" / "split.json").read_text())
    assert set(opened) == {*sides["train"], *sides["val"]} and len(sides["test"]) == 2
