"""The main job from end to end on the tiny network: every program, every file, every promise of a run directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from programs import TINY, run_script
from safetensors.torch import load_file

from tcurlora_seg.compare.collect import find_runs
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.run import load_run
from tcurlora_seg.training.directory import run_directory
from tcurlora_seg.training.start import draw_cases


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lpba40")
    simulate("lpba40", folder, subjects=8, seed=0, spacing=4.0)
    return folder


@pytest.fixture(scope="module")
def patch() -> pytest.MonkeyPatch:  # type: ignore[misc]
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """A finished run of tCURLoRA with one validation case."""
    outputs = tmp_path_factory.mktemp("outputs")
    arguments = ["dataset=lpba40", f"dataset.root={root}", "adapter=tcurlora", "adapter.rank=2", "split.validation=1"]
    code = run_script("train", *arguments, *TINY, f"outputs={outputs}", f"output={outputs / 'run'}",
                      "logger=tensorboard", "trainer.max_steps=4", monkeypatch=patch)  # fmt: skip
    assert code == 0
    return outputs / "run"


def test_a_run_directory_is_complete(run: Path) -> None:
    for name in ("config.yaml", "environment.json", "split.json", "metrics.json", "model.safetensors",
                 "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt",
                 "evaluation/test/cases.csv", "evaluation/test/summary.json"):  # fmt: skip
        assert (run / name).is_file(), name
    test = json.loads((run / "split.json").read_text())["test"]
    for case in test:
        assert (run / "evaluation" / "test" / "predictions" / f"{case}.nii.gz").is_file()
        assert (run / "evaluation" / "test" / "overlays" / f"{case}.png").stat().st_size > 10_000
    assert list((run / "tensorboard").glob("events*"))
    assert not list(run.rglob(".*partial*"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be set back here")
def test_a_run_answers_for_its_own_memory_in_a_process_that_once_held_more(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    held = np.ones(2**27)  # 1 GiB
    before = peak()
    del held
    settings = (*TINY, f"dataset.root={root}", f"outputs={tmp_path}", f"output={tmp_path / 'run'}", "test=null")
    assert run_script("train", *settings, monkeypatch=monkeypatch) == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["peak_memory_bytes"] < before - 2**29


def test_every_entry_of_the_core_has_moved(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    cores = {name: t for name, t in tensors.items() if name.endswith(".core")}
    assert len(cores) == 3
    assert all((core != 0).all() for core in cores.values())


def test_nothing_frozen_is_stored_and_nothing_frozen_has_moved(run: Path) -> None:
    stored = load_file(run / "model.safetensors")
    assert not any(name.startswith(("vit.", "encoder")) for name in stored)
    loaded = load_run(run).network.state_dict()
    base = load_file(next((run.parent / "bases").glob("*.safetensors")))
    for name, tensor in base.items():
        adapted = name.endswith("weight") and any(s in name for s in ("qkv", "out_proj", "linear1", "linear2"))
        if not adapted and not name.startswith("decoder"):
            assert torch.equal(loaded[name], tensor), name


def test_a_random_base_is_found_from_another_working_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(run.parent, tmp_path / "project" / "outputs")) / run.name
    config = OmegaConf.load(moved / "config.yaml")
    config.pretrained = f"outputs/bases/{Path(config.pretrained).name}"
    OmegaConf.save(config, moved / "config.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_run(moved, device="cpu").config.pretrained.startswith(str(tmp_path / "project"))


def test_metrics_hold_what_was_measured(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 4
    assert metrics["seed"] == 0
    assert metrics["file_bytes"] == (run / "model.safetensors").stat().st_size
    assert metrics["step_seconds"] > 0 and 0 < metrics["data_wait"] < 1
    assert metrics["ranks"] == {}, "tCURLoRA does not choose any"
    assert metrics["peak_memory_bytes"] > 10**8
    stored = load_file(run / "model.safetensors")
    trained = sum(t.numel() for name, t in stored.items() if not name.endswith((".rows", ".columns")))
    assert metrics["trainable_parameters"] == trained
    assert metrics["scores"] == json.loads((run / "evaluation" / "test" / "summary.json").read_text())
    assert metrics["scores"]["simulated"]["seed"] == 0


def test_scores_can_be_had_again_from_the_predictions_alone(run: Path, root: Path) -> None:
    cases = pd.read_csv(run / "evaluation" / "test" / "cases.csv")
    assert len(cases) == 3
    for row in cases.itertuples():
        prediction = nib.load(run / "evaluation" / "test" / "predictions" / f"{row.case}.nii.gz")
        folder = root / "LPBA40" / "delineation_space" / row.case
        files = {"header": folder / f"{row.case}.delineation.structure.label.hdr"}
        files["image"] = files["header"].with_suffix(".img.gz")
        holders = {key: nib.fileholders.FileHolder(str(path)) for key, path in files.items()}
        truth = np.isin(np.asarray(nib.AnalyzeImage.from_file_map(holders).dataobj)[..., 0], (165, 166))
        found = np.asarray(prediction.dataobj) == 1
        assert row.dice == pytest.approx(2 * (found & truth).sum() / (found.sum() + truth.sum()))
        assert row.reference_ml == pytest.approx(truth.sum() * 0.064)


def test_evaluating_again_gives_the_same_scores(run: Path, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    code = run_script("evaluate", f"checkpoint={run}", "split=test", f"output={tmp_path}", monkeypatch=patch)
    assert code == 0
    columns = ["case", "structure", "status", "dice", "hd95_mm", "volume_ml"]
    first, again = (pd.read_csv(f / "cases.csv")[columns] for f in (run / "evaluation" / "test", tmp_path))
    pd.testing.assert_frame_equal(first, again, rtol=1e-6)


def test_the_same_command_gives_the_same_numbers(
    run: Path, root: Path, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    first = None
    for name in ("a", "b"):
        assert run_script("train", f"dataset.root={root}", *TINY, "test=null", f"outputs={tmp_path}",
                          f"output={tmp_path / name}", monkeypatch=patch) == 0  # fmt: skip
        tensors = load_file(tmp_path / name / "model.safetensors")
        first = first or tensors
        assert all(torch.equal(tensors[key], first[key]) for key in first)


@pytest.mark.parametrize(
    "extra",
    [
        ["training.average_last=0"],
        ["training.average_last=2"],
        ["split.validation=1", "trainer.check_val_every_n_epoch=2"],
        ["training.average_last=0", "adapter=adalora", "adapter.rank=2", "adapter.method.interval=1"],
    ],
)
def test_a_stopped_run_goes_on_to_the_same_numbers(
    root: Path, tmp_path: Path, patch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    """With dropout, accumulation, shuffling and augmentation on; the power fails after the second of four epochs."""
    from tcurlora_seg.training.callbacks import Checkpoints

    arguments = [f"dataset.root={root}", *TINY, *extra, "test=null", f"outputs={tmp_path}", "trainer.max_steps=8",
                 "data.steps_per_epoch=2", "trainer.accumulate_grad_batches=2", "model.dropout_rate=0.1"]  # fmt: skip
    assert run_script("train", *arguments, f"output={tmp_path / 'whole'}", monkeypatch=patch) == 0
    with pytest.MonkeyPatch.context() as broken:
        save = Checkpoints.on_train_epoch_end

        def save_then_die(self: Checkpoints, *args: object) -> None:
            save(self, *args)  # type: ignore[arg-type]
            if args[0].global_step >= 4:  # type: ignore[attr-defined]
                raise RuntimeError("power cut")

        broken.setattr(Checkpoints, "on_train_epoch_end", save_then_die)
        assert run_script("train", *arguments, f"output={tmp_path / 'cut'}", monkeypatch=broken) == 1
    assert not (tmp_path / "cut" / "metrics.json").exists()
    assert run_script("train", *arguments, f"resume={tmp_path / 'cut'}", monkeypatch=patch) == 0
    ranks = json.loads((tmp_path / "cut" / "metrics.json").read_text())["ranks"]
    assert set(ranks) == ({"qkv", "o", "up", "down"} if "adapter=adalora" in extra else set())
    assert sum(map(sum, ranks.values())) in (0, 4 * 12 * 2), "the budget that was asked for"
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_sweep_leaves_one_directory_a_job_reports_failures_and_skips_what_is_finished(
    root: Path, tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", f"dataset.root={root}", *TINY, "test=null", f"outputs={tmp_path}", "adapter=tcurlora,lora",
                 "adapter.rank=2,999"]  # fmt: skip
    assert run_script("train", *arguments, monkeypatch=patch) == 1
    finished = list((tmp_path / "sweeps" / "default").glob("*/metrics.json"))
    assert len(finished) == 2
    assert sorted(path.parent.name.rpartition("_")[0] for path in finished) == ["lora_rank2", "tcurlora_rank2"]
    printed, error = capsys.readouterr()
    assert error.count("rank=999 is not possible") == 2 and error.count("error: [lora, rank 999] ") == 1
    assert error.splitlines()[-1] == (
        "error: 2 job(s) failed: mend what their errors say and run the same command again, it goes on with the 2 that "
        "are left"
    )
    assert "Traceback" not in error
    assert "job 1 of 4: tcurlora, rank 2" in printed and "job 4 of 4: lora, rank 999; about 1 min to go" in printed
    assert "2 finished, 2 failed of 4" in printed.splitlines()[-5]
    table = pd.read_csv(tmp_path / "sweeps" / "default" / "sweep.csv")
    assert list(table["status"]) == ["finished", "failed", "finished", "failed"]
    assert run_script("train", *arguments, monkeypatch=patch) == 1
    again = capsys.readouterr().out
    assert again.count("is finished: skipped") == 2 and "2 skipped, 2 failed of 4" in again
    assert len(pd.read_csv(tmp_path / "sweeps" / "default" / "sweep.csv")) == 4


def test_a_sweep_that_is_stopped_says_how_to_go_on_and_ends_the_same(
    root: Path, tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tcurlora_seg.training.interruption import StopOnSignal

    arguments = ["-m", f"dataset.root={root}", *TINY, "test=null", f"outputs={tmp_path}", "seed=0,1,2",
                 "adapter.rank=2", "trainer.max_steps=6", "data.steps_per_epoch=3"]  # fmt: skip
    with pytest.MonkeyPatch.context() as stopping:
        step = StopOnSignal.on_train_batch_end

        def interrupt(self: StopOnSignal, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 2 and "seed1" in trainer.default_root_dir:
                os.kill(os.getpid(), signal.SIGINT)
            step(self, trainer, *args)

        stopping.setattr(StopOnSignal, "on_train_batch_end", interrupt)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `make test &` has it ignored
        assert run_script("train", *arguments, monkeypatch=stopping) == 130
        signal.signal(signal.SIGINT, before)
    printed, error = capsys.readouterr()
    assert "1 finished, 1 stopped of 3" in printed and "job 3" not in printed
    assert error.splitlines() == [
        "SIGINT: saved after step 2", "stopped: run the same command again, it goes on with the 2 that are left",
    ]  # fmt: skip
    table = pd.read_csv(tmp_path / "sweeps" / "default" / "sweep.csv").set_index("status")
    assert Path(table.loc["stopped", "directory"]).name.startswith("seed1")
    assert run_script("train", *arguments, monkeypatch=patch) == 0
    printed, error = capsys.readouterr()
    assert "1 skipped, 2 finished" in printed or "2 finished, 1 skipped of 3" in printed
    assert "goes on after step 2 of 6, in epoch 1" in printed and error == ""


def test_data_that_changed_stop_a_skip_and_a_resume_and_new_cases_are_counted(
    root: Path, tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(root, tmp_path / "data"))
    folder = data / "LPBA40" / "delineation_space"
    shutil.copytree(folder / "S08", tmp_path / "S08")
    shutil.rmtree(folder / "S08")
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["cases"] = [case for case in manifest["cases"] if case["id"] != "S08"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    shutil.copytree(tmp_path / "S08", folder / "S08")
    arguments = [f"dataset.root={data}", *TINY, "test=null", f"outputs={tmp_path}", "adapter.rank=2"]
    assert run_script("train", "-m", *arguments, "seed=0", monkeypatch=patch) == 0
    assert "1 case(s) in" in (printed := capsys.readouterr().out) and "take no part: S08; " in printed
    (run,) = (path.parent for path in (tmp_path / "sweeps").rglob("metrics.json"))
    label = next(folder.glob("S02/*.label.img.gz"))
    label.write_bytes(next(folder.glob("S03/*.label.img.gz")).read_bytes())
    assert run_script("train", "-m", *arguments, "seed=0", monkeypatch=patch) == 1
    assert f"{label} changed since {run} began" in capsys.readouterr().err
    assert list(pd.read_csv(tmp_path / "sweeps" / "default" / "sweep.csv")["status"]) == ["failed"]
    assert run_script("train", *arguments, f"resume={run}", "trainer.max_steps=3", monkeypatch=patch) == 1
    assert f"{label} changed since {run} began" in capsys.readouterr().err


def test_a_finished_run_is_not_skipped_when_cases_were_added(
    root: Path, tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(root, tmp_path / "data"))
    (data / "manifest.json").unlink()
    (data / "LPBA40" / "delineation_space" / "S08").rename(tmp_path / "S08")
    arguments = ["-m", f"dataset.root={data}", *TINY, "test=null", f"outputs={tmp_path}", "adapter.rank=2", "seed=0"]
    assert run_script("train", *arguments, monkeypatch=patch) == 0
    assert run_script("train", *arguments, monkeypatch=patch) == 0
    assert "is finished: skipped" in capsys.readouterr().out
    (tmp_path / "S08").rename(data / "LPBA40" / "delineation_space" / "S08")
    assert run_script("train", *arguments, monkeypatch=patch) == 1
    assert "the cohort has changed since" in capsys.readouterr().err


def test_a_longer_run_says_that_its_schedule_changes(
    root: Path, tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"dataset.root={root}", *TINY, "test=null", f"outputs={tmp_path}", "adapter.rank=2"]
    assert run_script("train", *arguments, f"output={tmp_path / 'run'}", monkeypatch=patch) == 0
    assert "goes on" not in capsys.readouterr().out
    again = [argument for argument in arguments if not argument.startswith("trainer.max_steps")]
    assert run_script("train", *again, f"resume={tmp_path / 'run'}", "trainer.max_steps=4", monkeypatch=patch) == 0
    assert "goes on after step 2 of 4, in epoch 3; trainer.max_steps was 2: from here" in capsys.readouterr().out


def test_a_finished_run_that_goes_on_is_finished_no_more_until_it_ends(
    run: Path, tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = Path(shutil.copytree(run, tmp_path / "run"))
    before = {name: (longer / name).read_bytes() for name in ("metrics.json", "model.safetensors")}
    with patch.context() as patched:
        patched.setattr("tcurlora_seg.training.run._fit", lambda *_: sys.exit(1))
        assert run_script("train", f"resume={longer}", "trainer.max_steps=5", monkeypatch=patched) == 1
    aside = longer / "until_step_4"
    assert f"its results so far are in {aside}" in capsys.readouterr().out
    assert {name: (aside / name).read_bytes() for name in before} == before
    assert (aside / "evaluation" / "test" / "cases.csv").is_file() and not (longer / "evaluation").exists()
    with pytest.raises(UserError, match=r"is not finished: it has no metrics.json"):
        find_runs(str(longer), "test")
    assert run_script("predict", f"checkpoint={longer}", f"input={run}", "output=x", monkeypatch=patch) == 1
    assert f"checkpoint={longer} is no finished run: it has no model.safetensors; {aside}" in capsys.readouterr().err


def test_a_job_of_a_sweep_does_not_take_another_ones_folder(
    run: Path, root: Path, tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"dataset.root={root}", *TINY, "adapter.rank=2", "split.validation=1", f"output={run}")
    assert run_script("train", "-m", *arguments, f"outputs={tmp_path}", "seed=7", monkeypatch=patch) == 1
    assert f"output={run} holds the run with seed=0: a job of a sweep needs a folder" in capsys.readouterr().err


def test_a_resumed_run_goes_on_in_its_own_folder(
    run: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("train", f"resume={run}", "output=elsewhere", monkeypatch=patch) == 1
    assert f"output=elsewhere has no effect: resume={run} goes on in its own folder" in capsys.readouterr().err


def test_rules_for_pieces_that_cannot_be_are_told_before_the_training(
    root: Path, tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"dataset.root={root}", *TINY, f"outputs={tmp_path}", f"output={tmp_path / 'run'}")
    assert run_script("train", *arguments, "inference.largest_pieces=0", monkeypatch=patch) == 1
    assert "largest_pieces=0: expected a number of pieces" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    config = OmegaConf.create({"outputs": str(tmp_path), "adapter": {"name": "lora"}})
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: run_directory(config, "lpba40", sweep=False), range(100)))
    assert len(set(folders)) == 100


def test_overfitting_trains_and_tests_on_the_same_single_case(root: Path, tmp_path: Path, patch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    code = run_script("train", "dataset=lpba40", f"dataset.root={root}", "adapter=decoder_only", "overfit=1", *TINY,
                      f"outputs={tmp_path}", f"output={tmp_path / 'run'}", monkeypatch=patch)  # fmt: skip
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert code == 0 and len(split["train"]) == 1 and split["test"] == split["train"] and split["val"] == []
    assert "GB for a step" in capsys.readouterr().out


def test_overfitting_works_with_a_cohort_of_one_case_and_wants_no_more_than_there_are(root: Path) -> None:
    dataset = instantiate(load_config("configs/dataset/lpba40.yaml"), root=str(root))
    with pytest.raises(UserError, match=r"overfit=20: there are no more than 5 training case"):
        draw_cases(dataset, OmegaConf.create({}), overfit=20, directory=root)
    dataset.adopt(replace(dataset.manifest(), cases=dataset.manifest().cases[:1]))
    drawn = draw_cases(dataset, OmegaConf.create({}), overfit=1, directory=root)
    assert drawn.train == drawn.test == ("S01",)


def test_data_without_a_voxel_of_a_class_and_without_a_case_to_score_say_so(
    tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    g = np.random.default_rng(0)
    volumes = {"images": lambda: g.normal(100, 10, (20, 20, 20)), "labels": lambda: np.eye(20)[..., None].repeat(20, 2)}
    for folder, volume in volumes.items():
        (tmp_path / folder).mkdir()
        for id in "ab":
            nib.save(nib.Nifti1Image(volume().astype(np.float32), np.eye(4)), tmp_path / folder / f"{id}.nii.gz")
    arguments = ("dataset=folder", f"dataset.root={tmp_path}", "dataset.classes={a: [1], b: [2]}", "test=val", *TINY)
    assert run_script("train", *arguments, f"output={tmp_path / 'run'}", monkeypatch=patch) == 0
    assert "no training case has a voxel of b: it cannot be learnt" in caplog.text
    assert "no case to score: test=val has none here" in capsys.readouterr().out
