"""A run may be stopped at any moment and in any way; what it goes on from is whole, and what comes out is the same."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from programs import TINY, run_script
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensor

from tcurlora_seg.files import atomic_path
from tcurlora_seg.models.checkpoint import read_metadata
from tcurlora_seg.training.callbacks import Checkpoints
from tcurlora_seg.training.interruption import StopOnSignal
from tcurlora_seg.training.module import SegmentationModule

LONG = ("trainer.max_steps=6", "data.steps_per_epoch=3", "trainer.accumulate_grad_batches=2", "model.dropout_rate=0.1",
        "training.average_last=2", "split.validation=1", "test=null")  # fmt: skip


@pytest.fixture
def train(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        folders = (f"dataset.root={root}", f"outputs={tmp_path}")
        return run_script("train", *TINY, *LONG, *folders, *arguments, monkeypatch=monkeypatch)

    return run


def resume(run: Path, patch: pytest.MonkeyPatch, *more: str) -> int:
    """Go on with nothing but the folder: the settings come from it."""
    return run_script("train", f"resume={run}", *more, monkeypatch=patch)


def same(a: Path, b: Path) -> bool:
    first, second = (load_file(path / "model.safetensors") for path in (a, b))
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize(("step", "saved"), [(1, 2), (3, 3)], ids=["in an epoch", "at its end"])
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    signum: int, step: int, saved: int,
) -> None:  # fmt: skip
    handlers = [signal.default_int_handler, signal.SIG_DFL]
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
        signal.signal(number, handler)  # a shell that starts the tests with `&` has SIGINT ignored
    assert train(f"output={tmp_path / 'whole'}") == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    with pytest.MonkeyPatch.context() as patch:
        original = SegmentationModule.on_train_batch_end

        def interrupted(self: SegmentationModule, *args: object) -> None:
            original(self, *args)  # type: ignore[arg-type]
            if self.global_step == step and args[2] == 2 * step - 1:  # once: a second signal does not wait
                os.kill(os.getpid(), signum)

        patch.setattr(SegmentationModule, "on_train_batch_end", interrupted)
        assert train(f"output={tmp_path / 'cut'}") == 128 + signum
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert f"resume={tmp_path / 'cut'}" in capsys.readouterr().err
    assert torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)["global_step"] == saved
    assert resume(tmp_path / "cut", monkeypatch) == 0
    assert same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_the_checkpoint_before_is_used_where_the_last_is_damaged(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    assert train(f"output={tmp_path / 'whole'}") == 0
    last = tmp_path / "whole/checkpoints/last.ckpt"
    assert train(f"output={tmp_path / 'cut'}") == 0
    for name in ("metrics.json", "model.safetensors"):
        (tmp_path / "cut" / name).unlink()
    last = tmp_path / "cut/checkpoints/last.ckpt"
    if damage == "missing":
        last.unlink()
        assert resume(tmp_path / "cut", monkeypatch) == 0
    else:
        last.write_bytes(last.read_bytes()[:20_000])
        with pytest.warns(UserWarning, match=r"last\.ckpt is damaged"):
            assert resume(tmp_path / "cut", monkeypatch) == 0
        assert last.with_suffix(".damaged").is_file()
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_run_killed_after_its_last_step_ends_with_the_same_weights_and_figures(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(f"output={tmp_path / 'run'}") == 0
    before = load_file(tmp_path / "run/model.safetensors")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    for name in ("metrics.json", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    assert resume(tmp_path / "run", monkeypatch) == 0
    after = load_file(tmp_path / "run/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == metrics


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does."""


def killed(patch: pytest.MonkeyPatch, owner: type, method: str, step: int) -> None:
    """Let a run end before it calls a method of something that trains with it, once it has made `step` steps."""
    original = getattr(owner, method)

    def fail(self: object, trainer: lightning.Trainer, *args: object, **options: object) -> object:
        if trainer.global_step == step:
            raise Killed
        return original(self, trainer, *args, **options)

    patch.setattr(owner, method, fail)


@pytest.mark.parametrize("step", [2, 4, 5])
def test_a_run_killed_after_an_epoch_averages_the_same_epochs(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    settings = ("data.steps_per_epoch=1", "training.average_last=3")
    assert train(f"output={tmp_path / 'whole'}", *settings) == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        killed(patch, StopOnSignal, "on_train_epoch_end", step)
        train(f"output={tmp_path / 'cut'}", *settings)
    assert resume(tmp_path / "cut", monkeypatch) == 0
    assert same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("signum", [None, signal.SIGTERM], ids=["killed", "asked to stop"])
def test_a_run_that_seldom_saves_goes_on_from_what_it_saved(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int | None
) -> None:
    """Killed in the fifth of six epochs it goes on after the third; asked to stop it saves where it stands."""
    settings = ("data.steps_per_epoch=1", "training.save_every=3", "split.validation=0")
    assert train(f"output={tmp_path / 'whole'}", *settings) == 0
    with pytest.MonkeyPatch.context() as patch:
        if signum is None:
            killed(patch, StopOnSignal, "on_train_epoch_end", 5)
            with pytest.raises(Killed):
                train(f"output={tmp_path / 'cut'}", *settings)
        else:
            original = SegmentationModule.on_train_batch_start

            def interrupted(self: SegmentationModule, *args: object) -> None:
                original(self, *args)  # type: ignore[arg-type]
                if self.global_step == 4 and args[1] == 0:
                    os.kill(os.getpid(), signum)

            patch.setattr(SegmentationModule, "on_train_batch_start", interrupted)
            assert train(f"output={tmp_path / 'cut'}", *settings) == 128 + signum
    saved = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert saved == (3 if signum is None else 5)
    assert resume(tmp_path / "cut", monkeypatch) == 0
    assert same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    ("owner", "method"), [(Checkpoints, "save"), (StopOnSignal, "on_train_epoch_end")], ids=["before", "after"]
)
def test_patience_and_the_best_epoch_survive_a_kill(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, owner: type, method: str
) -> None:
    """Without a learning rate the first epoch stays the best one, and the second is the one to stop at."""
    settings = ("data.steps_per_epoch=1", "training.average_last=0", "training.patience=1", "optimizer.lr=0")
    assert train(f"output={tmp_path / 'whole'}", *settings) == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        killed(patch, owner, method, step)
        train(f"output={tmp_path / 'cut'}", *settings)
    assert resume(tmp_path / "cut", monkeypatch) == 0
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert json.loads((tmp_path / "cut/metrics.json").read_text())["steps"] == 2


def test_no_checkpoint_knows_of_a_best_epoch_that_was_not_written(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, content: bytes) -> int:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "write_bytes", fail)  # best.ckpt is a copy
        train(f"output={tmp_path / 'cut'}", "training.average_last=0")
    assert not (tmp_path / "cut/checkpoints/last.ckpt").exists()


def test_other_settings_than_the_run_was_started_with_are_refused(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"output={tmp_path / 'run'}") == 0
    (tmp_path / "run/metrics.json").unlink()
    for argument, words in (
        ("adapter.rank=3", "was started with adapter.rank=8, not 3"),
        ("adapter=lora", "was started with adapter."),
        ("seed=1", "was started with seed=0, not 1"),
    ):
        assert resume(tmp_path / "run", monkeypatch, argument) == 1
        assert words in capsys.readouterr().err
    assert resume(tmp_path / "run", monkeypatch, "logger=none") == 0
    assert resume(tmp_path / "run", monkeypatch, "trainer.max_steps=7") == 0  # finished, and yet it goes on
    assert json.loads((tmp_path / "run/metrics.json").read_text())["steps"] == 7


def test_what_a_killed_run_wrote_half_is_gone_when_it_goes_on(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(f"output={tmp_path / 'run'}", "trainer.max_steps=1") == 0
    for name in ("metrics.json", "checkpoints/last.ckpt"):
        with atomic_path(tmp_path / "run" / name) as temporary:
            shutil.copy(tmp_path / "run" / name, temporary)
            temporary.with_name(temporary.name.replace(str(os.getpid()), "4711")).write_bytes(b"half")
    assert resume(tmp_path / "run", monkeypatch, "trainer.max_steps=2") == 0
    left = [path.name for path in (tmp_path / "run").rglob("*") if "partial" in path.name]
    assert left == []


def test_two_processes_in_one_run_directory_are_refused(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"output={tmp_path / 'run'}", "trainer.max_steps=3") == 0
    (tmp_path / "run/metrics.json").unlink()
    with (tmp_path / "run/.lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert resume(tmp_path / "run", monkeypatch) == 1
        assert "process 4711 is at work in" in capsys.readouterr().err
    assert resume(tmp_path / "run", monkeypatch) == 0
    assert not (tmp_path / "run/.lock").exists()


def spoilt(step: int) -> Callable[..., dict[str, torch.Tensor]]:
    original = SegmentationModule.training_step

    def spoil(self: SegmentationModule, batch: dict, index: int) -> dict[str, torch.Tensor]:
        result = original(self, batch, index)
        if self.global_step == step:
            result["loss"] = result["loss"] * float("nan")
        return result

    return spoil


@pytest.mark.parametrize("logged", [5, 50], ids=["read at a logged step", "read before a checkpoint"])
def test_a_loss_that_is_no_number_stops_the_run_names_the_cases_and_spoils_nothing(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    logged: int,
) -> None:  # fmt: skip
    seldom = f"trainer.log_every_n_steps={logged}"
    assert train(f"output={tmp_path / 'whole'}", seldom) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", spoilt(4))
        assert train(f"output={tmp_path / 'cut'}", seldom) == 1
    error = capsys.readouterr().err
    assert "step 5, cases S0" in error and "NaN" in error and "Traceback" not in error
    assert resume(tmp_path / "cut", monkeypatch) == 0
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_skipped_step_leaves_weights_and_moments_alone(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = []
    for stop in (4, 5):  # the fifth step is spoilt
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SegmentationModule, "training_step", spoilt(4))
            arguments = (f"output={tmp_path / str(stop)}", "training.on_divergence=skip", "data.steps_per_epoch=1",
                         "training.class_weights=null")  # fmt: skip
            assert train(*arguments, f"trainer.max_steps={stop}", "training.decay_power=0") == 0
        states.append(torch.load(tmp_path / str(stop) / "checkpoints/last.ckpt", weights_only=True))
    assert capsys.readouterr().out.count("skipped: step 5") == 1
    for name, tensor in states[0]["state_dict"].items():
        assert torch.equal(tensor, states[1]["state_dict"][name])
    for a, b in zip(*(s["optimizer_states"][0]["state"].values() for s in states), strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"]) and a["step"] == b["step"]


def test_another_base_is_refused_on_resuming(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"output={tmp_path / 'run'}", "trainer.max_steps=3") == 0
    assert train(f"output={tmp_path / 'other'}", "trainer.max_steps=3", "seed=1") == 0
    (tmp_path / "run/metrics.json").unlink()
    used = (tmp_path / "run/config.yaml").read_text()
    (other,) = (path for path in (tmp_path / "bases").iterdir() if path.stem not in used)
    assert resume(tmp_path / "run", monkeypatch, f"pretrained={other}") == 1
    assert "was trained on the base" in capsys.readouterr().err


def test_a_cohort_that_has_changed_is_noticed_before_a_trained_case_is_scored(
    train: Callable[..., int], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = tmp_path / "data"
    shutil.copytree(root, data)
    assert train(f"output={tmp_path / 'run'}", f"dataset.root={data}", "trainer.max_steps=3") == 0
    (tmp_path / "run/metrics.json").unlink()
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["cases"] = manifest["cases"][:-1]
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert resume(tmp_path / "run", monkeypatch) == 1
    assert "the cohort has changed since" in capsys.readouterr().err


def test_a_resumed_run_still_knows_that_a_random_base_has_seen_nobody(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(f"output={tmp_path / 'run'}", "trainer.max_steps=3") == 0
    (tmp_path / "run/metrics.json").unlink()
    assert resume(tmp_path / "run", monkeypatch) == 0
    assert read_metadata(tmp_path / "run/model.safetensors")["trained_on"] == []


def test_a_run_that_stopped_early_is_finished(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given again, the command of a sweep must not train it on."""
    early = ("training.patience=1", "data.steps_per_epoch=1", "training.average_last=0", "optimizer.lr=0")
    assert train(f"output={tmp_path / 'run'}", *early) == 0
    steps = json.loads((tmp_path / "run/metrics.json").read_text())["steps"]
    assert steps < 6
    assert resume(tmp_path / "run", monkeypatch) == 0
    assert "is finished: skipped" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/metrics.json").read_text())["steps"] == steps


@pytest.mark.parametrize("end", ["finished", "stopped"])
def test_a_run_leaves_neither_its_network_nor_its_estimate_in_memory(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(thing) in (lightning.Trainer, SegmentationModule, FakeTensor) for thing in gc.get_objects())

    before = alive()
    if end == "stopped":
        monkeypatch.setattr(SegmentationModule, "training_step", spoilt(1))
    assert train(f"output={tmp_path / 'run'}", "trainer.max_steps=2", "split.validation=0") == (end == "stopped")
    assert alive() <= before
