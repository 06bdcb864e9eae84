"""Finding runs: unfinished ones are named, damaged ones refused, and none counts twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tcurlora_seg.compare.collect import find_runs, newest_only, read_run
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.statistics import COLUMNS


def test_runs_are_found_by_folder_pattern_and_list_and_each_once(make_run: Callable[..., Path], tmp_path: Path) -> None:
    first, second = make_run([0.8]), make_run([0.9], seed=1)
    runs = str(tmp_path / "runs")
    for places in (runs, str(tmp_path), f"{runs}/run*", [str(first), str(second)], [runs, str(first)]):
        assert find_runs(places, "test") == ([first, second], [])
    assert find_runs(str(first), "test") == ([first], [])


def test_a_linked_run_is_found_and_counts_once(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run([0.8])
    (tmp_path / "collected").mkdir()
    for name in ("linked", "twice"):
        (tmp_path / "collected" / name).symlink_to(run)
    assert find_runs(str(tmp_path / "collected"), "test") == ([tmp_path / "collected" / "linked"], [])
    (tmp_path / "[a]").symlink_to(run)  # no pattern
    assert find_runs(str(tmp_path / "[a]"), "test") == ([tmp_path / "[a]"], [])


def test_unfinished_runs_are_named_and_left_out(make_run: Callable[..., Path], tmp_path: Path) -> None:
    whole, untrained, unscored = (make_run([0.8], seed=seed) for seed in range(3))
    (untrained / "metrics.json").unlink()
    (unscored / "evaluation" / "test" / "cases.csv").unlink()
    finished, left_out = find_runs(str(tmp_path / "runs"), "test")
    assert finished == [whole]
    assert left_out == [
        f"{untrained} is not finished: it has no metrics.json",
        f"{unscored} is not finished: it has no evaluation/test/cases.csv",
    ]
    with pytest.raises(UserError, match=r"no finished run there; .*evaluation/val/cases\.csv"):
        find_runs(str(whole), "val")


def test_a_place_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runs=.*nowhere does not exist"):
        find_runs(str(tmp_path / "nowhere"), "test")
    with pytest.raises(UserError, match=r"no finished run there: a run has config\.yaml and metrics\.json"):
        find_runs(str(tmp_path), "test")


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("metrics.json", "{", r"metrics\.json is not valid JSON"),
        ("metrics.json", "[]", r"metrics\.json has no 'seed'"),
        ("environment.json", "{}", r"environment\.json has no 'command'"),
        ("config.yaml", "a: [", r"config\.yaml is not a readable configuration"),
        ("config.yaml", "seed: 0", r"config\.yaml has no 'adapter\.name'"),
        ("config.yaml", "{seed: 0, adapter: {name: a, rank: 1}, split: {seed: 0, fold: 0}}", r"has no 'split\.scheme'"),
        ("evaluation/test/cases.csv", "", r"cases\.csv is damaged: No columns"),
        ("evaluation/test/cases.csv", "case,dice\nS01,0.5\n", r"damaged: it has no column patient"),
        ("evaluation/test/summary.json", "{}", r"summary\.json has no 'dataset'"),
    ],
)
def test_a_damaged_file_is_named(make_run: Callable[..., Path], file: str, text: str, expected: str) -> None:
    run = make_run([0.8])
    (run / file).write_text(text)
    with pytest.raises(UserError, match=expected):
        read_run(run, "test")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("0.8", "much"), "could not convert string to float"),
        (lambda text: text + text.splitlines()[1] + "\n", "lists a case twice"),
        (lambda text: text.splitlines()[0] + "\n", "has no rows"),
        (lambda text: text[:-20], "a row is cut short"),
    ],
)
def test_damaged_rows_are_refused(make_run: Callable[..., Path], change: Callable[[str], str], expected: str) -> None:
    path = make_run([0.8]) / "evaluation" / "test" / "cases.csv"
    path.write_text(change(path.read_text(encoding="utf-8")))
    with pytest.raises(UserError, match=rf"cases\.csv is damaged: .*({expected}).*evaluate\.py"):
        read_run(path.parents[2], "test")


def test_a_case_keeps_the_zeros_of_its_name(make_run: Callable[..., Path]) -> None:
    assert list(read_run(make_run({"a": {"007": 0.5}}), "test").cases["case"]) == ["007"]


def test_of_exact_repeats_the_newest_counts(make_run: Callable[..., Path]) -> None:
    newer = make_run([0.9], time="2026-02-01T00:00:00+00:00", outputs="elsewhere")
    older = make_run([0.8])
    other = make_run([0.7], seed=1)
    kept, left_out = newest_only([read_run(run, "test") for run in (newer, older, other)])
    assert [run.directory for run in kept] == [newer, other]
    assert left_out == [f"{older} repeats {newer}, which is newer"]


def test_a_measure_that_an_older_run_has_not_is_missing_and_a_missed_structure_has_no_surface_dice_but_0(
    make_run: Callable[..., Path],
) -> None:
    path = make_run([0.8, 0.0]) / "evaluation" / "test" / "cases.csv"
    older = pd.read_csv(path).drop(columns=["precision", "msd_mm"])
    older.assign(surface_dice=[0.7, None]).to_csv(path, index=False)
    rows = read_run(path.parents[2], "test").cases
    assert list(rows.columns) == list(COLUMNS)
    assert rows[["precision", "msd_mm"]].isna().all(axis=None)
    assert list(rows["surface_dice"]) == [0.7, 0.0]
    assert list(rows["dice"]) == [0.8, 0.0]
