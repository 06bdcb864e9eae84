"""What is scored is what `predict` gives, for cases that are there."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from programs import run_script
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation import evaluate
from tcurlora_seg.evaluation.evaluate import evaluate_run, spread_out, told
from tcurlora_seg.inference.run import load_run


def trained_on_voxels_of(size: float, run: Path, folder: Path) -> Path:
    """The run as if its training images had had voxels of that size."""
    moved = Path(shutil.copytree(run, folder))
    path = moved / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        ((key, notes),) = file.metadata().items()
    spacing = {name: [size] * 3 for name in ("smallest", "median", "largest")}
    save_file(load_file(path), path, metadata={key: json.dumps({**json.loads(notes), "spacing": spacing})})
    return moved


@pytest.mark.parametrize("size", [6.0, 4.5])
def test_label_maps_are_those_of_predict_whatever_voxels_were_trained_on(
    run: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    other = trained_on_voxels_of(size, run, tmp_path / "run")
    evaluate_run(checkpoint=str(other), device="cpu", output=str(tmp_path / "scored"))
    assert run_script("predict", f"checkpoint={other}", f"input={cohort / 'manifest.json'}",
                      f"output={tmp_path / 'predicted'}", "device=cpu", monkeypatch=monkeypatch) == 0  # fmt: skip
    changed = 0
    for path in sorted((tmp_path / "scored" / "predictions").glob("*.nii.gz")):
        scored, predicted = (np.asanyarray(nib.load(p).dataobj) for p in (path, tmp_path / "predicted" / path.name))
        np.testing.assert_array_equal(np.array([0, 165, 166])[scored], predicted)
        before = np.asanyarray(nib.load(run / "evaluation" / "test" / "predictions" / path.name).dataobj)
        changed += int((scored != before).sum())
    assert (changed > 0) == (size != 6.0)


def test_an_ensemble_is_scored_as_predict_averages_it_and_is_a_row_of_a_comparison(
    trained: list[Path], cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, output = f"[{trained[0]},{trained[1]}]", tmp_path / "both"
    assert run_script("evaluate", f"checkpoint={runs}", f"output={output}", monkeypatch=monkeypatch) == 0
    assert run_script("predict", f"checkpoint={runs}", f"input={cohort / 'manifest.json'}",
                      f"output={tmp_path / 'predicted'}", monkeypatch=monkeypatch) == 0  # fmt: skip
    maps, alone = sorted((output / "evaluation/test/predictions").glob("*.nii.gz")), 0
    assert len(maps) == 2
    for path in maps:
        scored, predicted = (np.asanyarray(nib.load(p).dataobj) for p in (path, tmp_path / "predicted" / path.name))
        np.testing.assert_array_equal(np.array([0, 165, 166])[scored], predicted)
        first = np.asanyarray(nib.load(trained[0] / "evaluation/test/predictions" / path.name).dataobj)
        alone += int((scored != first).sum())
    assert alone > 0
    given = (f"runs=[{trained[0]},{output}]", f"output={tmp_path / 'compared'}")
    assert run_script("compare", *given, monkeypatch=monkeypatch) == 0
    assert "| tcurlora, 2 averaged | mean of structures |" in (tmp_path / "compared" / "comparison.md").read_text()


def test_an_ensemble_that_has_seen_a_scored_case_or_has_no_place_is_refused(
    trained: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(trained[1], tmp_path / "other"))
    drawn = json.loads((other / "split.json").read_text())
    drawn["train"].append(drawn["test"].pop())
    (other / "split.json").write_text(json.dumps(drawn))
    with pytest.raises(UserError, match=rf"other trained on {drawn['train'][-1]}, which is scored"):
        evaluate_run(checkpoint=[str(trained[0]), str(other)], device="cpu", output=str(tmp_path / "both"))
    maps = (f"output={tmp_path}", f"predictions={tmp_path}")
    both, one = f"checkpoint=[{trained[0]},{other}]", f"checkpoint={other}"
    for given, words in (
        ((both,), "needs output=DIR"),
        ((both, *maps), "without predictions"),
        ((f"checkpoint=[{other},{other}]", f"output={tmp_path}"), f"lists {other} twice"),
        ((one, *maps, "largest_pieces=1"), "largest_pieces=1 has no effect with predictions=..."),
        ((one, *maps, "mirror=false"), "mirror=False has no effect with predictions=..."),
    ):
        assert run_script("evaluate", *given, monkeypatch=monkeypatch) == 1
        assert words in capsys.readouterr().err


def test_scores_do_not_take_the_place_of_a_trained_run(trained: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained[1], tmp_path / "other"))
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    for checkpoint in (str(trained[0]), [str(trained[0]), str(trained[1])]):
        with pytest.raises(UserError, match=r"other is a run of its own: choose another folder"):
            evaluate_run(checkpoint=checkpoint, device="cpu", output=str(other))
    assert before == {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}


def test_other_data_do_not_take_the_place_of_a_runs_own_scores(
    run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(cohort, tmp_path / "data"))
    case = json.loads((run / "split.json").read_text())["test"][0]
    label = next(data.rglob(f"{case}/*.label.img.gz"))
    label.write_bytes(gzip.compress(gzip.decompress(label.read_bytes()), compresslevel=9))
    options = {"checkpoint": str(run), "device": "cpu", "root": str(data), "pictures": 0}
    with pytest.raises(UserError, match=rf"{case}.* changed since .* began: these are other data; output=DIR keeps"):
        evaluate_run(**options)
    evaluate_run(**options, output=str(tmp_path / "apart"))
    assert "these are scores of other data" in capsys.readouterr().out


def test_a_case_that_has_left_the_data_set_is_named(run: Path, cohort: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(cohort, tmp_path / "data"))
    case = json.loads((run / "split.json").read_text())["test"][0]
    listed = json.loads((data / "manifest.json").read_text())
    listed["cases"] = [entry for entry in listed["cases"] if entry["id"] != case]
    listed["splits"], listed["excluded"] = {}, {case: "it moved"}
    (data / "manifest.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=rf"split=test: the case {case} of .* is no longer in .*data \(it moved\); put"):
        load_run(run, device="cpu", root=str(data)).cases("test")


def test_pictures_are_of_the_worst_the_median_and_the_best() -> None:
    rows = pd.DataFrame({"case": [*"aabbccddeef"], "dice": [0.9, 0.7, 0.1, 0.1, 0.5, 0.5, 0.6, 0.6, 0.9, 0.9, None]})
    assert spread_out(rows, 3) == ["b", "d", "e"]
    assert spread_out(rows, 99) == ["b", "c", "d", "a", "e"]  # without a Dice there is nothing to rank by
    assert spread_out(rows, 0) == spread_out(rows, -1) == []


def test_as_many_cases_are_drawn_as_asked_for(run: Path, tmp_path: Path) -> None:
    for count, drawn in ((0, 0), (1, 1), (99, 2)):  # two are scored
        evaluate_run(checkpoint=str(run), device="cpu", pictures=count, output=str(tmp_path / str(count)))
        assert len(list((tmp_path / str(count)).glob("overlays/*.png"))) == drawn


def test_a_long_evaluation_says_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 15))
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: next(clock))
    assert list(told([str(i) for i in range(9)])) == [str(i) for i in range(9)]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "scored 1 of 9 cases, about 4 min left" and len(said) == 4
