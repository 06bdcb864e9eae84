"""Values that another library would answer in its own words, or take and never use."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import TINY, run_script


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("+trainer.limit_test_batches=2", "trainer.limit_test_batches has no effect here: split.test=N scores N"),
        ("+trainer.max_epochs=3", "trainer.max_epochs has no effect here: trainer.max_steps says"),
        ("+trainer.callbacks=[]", "trainer.callbacks has no effect here: every run sets it itself"),
        ("trainer.precision=fp16", "trainer.precision=fp16: choose auto, 32-true, bf16-mixed, 16-mixed"),
        ("trainer.accelerator=graphics", "trainer.accelerator=graphics: choose auto, cpu, gpu"),
        ("trainer.accelerator=tpu", "trainer.accelerator=tpu: choose auto, cpu, gpu, cuda, mps"),
        ("trainer.devices=0", "trainer.devices=0: a number of at least 1 is needed, or -1 for every GPU"),
        ("seed=-1", "seed=-1: expected 0 to 4294967295"),
        ("sweep=null", "sweep=null: a name is needed"),
        ("window=96", "window=96: three sides in voxels are needed, such as [96,96,96], or null"),
        ("pretrained=null", "pretrained=None is not a file: give a path of weights, builtin, or random"),
        ("data.batch_size=0", "data.batch_size=0: at least 1 is needed, or null for what fits in memory"),
        ("training.lr_factors={vit.**: x}", "training.lr_factors={'vit.**': 'x'}: numbers of at least 0 by glob"),
        ("training.lr_factors=0.1", "training.lr_factors=0.1: numbers of at least 0 by glob"),
        ("training.weights_fade=1.5", "training.weights_fade=1.5: a share from 0 to 1 is needed"),
        ("training.probe=-1", "training.probe=-1: a number of windows is needed, 0 for none"),
        ("window=96.5", "window=96.5: three sides in voxels are needed"),
        ("inference.overlap=null", "inference.overlap=null is not what was expected: a number"),
        ("training.weights_fade=null", "training.weights_fade=null is not what was expected: a number"),
        ("inference.mirror=null", "inference.mirror=null is not what was expected: true or false"),
        ("training.patience=x", "training.patience='x': a number of validations is needed, or null"),
        ("training.warmup_steps=-1", "training.warmup_steps=-1: a number of steps is needed"),
        ("training.average_last=-1", "training.average_last=-1: a number of epochs is needed"),
        ("training.class_weights=none", "training.class_weights='none' is not what was expected: Sequence[float]"),
        ("training.class_weights=[1,a]", "training.class_weights=[1, 'a'] is not what was expected"),
        ("optimizer.lr=-1", "optimizer.lr=-1: at least 0 is needed"),
        ("inference.second_look=1", "inference.second_look=1 is not what was expected: true or false"),
        ("training.decay_power=-1", "training.decay_power=-1: at least 0 is needed"),
        ("training.loss=focal", "training.loss='focal' is not what was expected: Literal['dice_ce', 'dice', 'tokens']"),
        ("split.fold=1", "split.fold=1 has no effect with split.scheme=null: it belongs to split.scheme=kfold"),
        ("split.shots=2", "split.shots=2 has no effect with split.scheme=null: it belongs to split.scheme=shots"),
    ],
)
def test_one_line_of_ours(
    argument: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("train", argument, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert expected in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("simulate=abc", "simulate='abc': a number of subjects is needed, or null"),
        ("simulate=0", "simulate=0: a number of subjects is needed"),
        ("workers=-1", "workers=-1: a number of threads is needed, or null"),
        ("split.fold=abc", "split.fold='abc': the number of a fold is needed, or null"),
        ("spacing=null", "spacing=null is not what was expected: a number"),
    ],
)
def test_one_line_of_ours_where_a_folder_is_prepared(
    argument: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"dataset.root={tmp_path / 'new'}", "simulate=3", argument)
    assert run_script("prepare_data", *arguments, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert expected in error and len(error.splitlines()) == 1 and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model=unetr_tiny"], "pretrained=builtin does not fit the network: these weights are unetr_small's"),
        ([*TINY, "training.loss=tokens", "trainer.devices=2"], "training.loss=tokens leaves the decoder out"),
        ([*TINY, "trainer.accelerator=gpu"], "trainer.accelerator=gpu: PyTorch sees no GPU here; choose auto or cpu"),
        ([*TINY, "+trainer.strategy=foo"], "trainer: You selected an invalid strategy name"),
        ([*TINY, "+trainer.foo=1"], "trainer: Trainer.__init__() got an unexpected keyword argument 'foo'"),
        ([*TINY, "split.test=9"], "split.test=9: expected 1 to 6, the number of test cases"),
    ],
)
def test_one_line_of_ours_where_it_takes_data(
    arguments: list[str], expected: str, tmp_path: Path, cohort: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    given = (f"dataset.root={cohort}", f"outputs={tmp_path}", "split.scheme=shots", "split.shots=1")
    assert run_script("train", *arguments, *given, monkeypatch=monkeypatch) == 1
    assert expected in capsys.readouterr().err
