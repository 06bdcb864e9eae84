"""The table: its numbers recomputed, its three forms, and what it says about itself."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tcurlora_seg.compare.collect import read_run
from tcurlora_seg.compare.methods import ALL, Method, group_methods
from tcurlora_seg.compare.page import build_page
from tcurlora_seg.compare.significance import compare_pairs
from tcurlora_seg.compare.table import chance_notes, columns, escape_latex, latex, markdown, notes, summarise_methods
from tcurlora_seg.evaluation.statistics import COLUMNS, MEASURES, Measure
from tcurlora_seg.files import read_json, write_json


@pytest.fixture
def methods(make_run: Callable[..., Path]) -> list[Method]:
    """Two seeds of one method, one of a dearer one, three cases, the last missed once."""
    runs = [
        make_run([0.6, 0.7, 0.0], seed=0), make_run([0.8, 0.9, 0.5], seed=1),
        make_run([0.9, 0.8, 0.7], adapter="full", rank=None, trainable=9000, simulated={"seed": 0}),
    ]  # fmt: skip
    return group_methods([read_run(run, "test") for run in runs])


def test_every_number_is_what_its_name_says(methods: list[Method]) -> None:
    row = summarise_methods(methods, "test").iloc[0]
    cases, seeds = np.array([0.7, 0.8, 0.25]), np.array([1.3 / 3, 2.2 / 3])
    assert row["dice_mean"] == pytest.approx(cases.mean())
    assert row["dice_sd_cases"] == pytest.approx(cases.std(ddof=1))
    assert row["dice_sd_seeds"] == pytest.approx(seeds.std(ddof=1))
    assert row["hd95_mm_mean"] == pytest.approx(np.mean([3.0, 2.0, 5.0]))
    assert row["hd95_mm_sd_seeds"] == pytest.approx(np.std([3.5, 8 / 3], ddof=1))
    assert (row["missed"], row["predicted"]) == (1, 6)
    assert (row["seeds"], row["runs"], row["cases"]) == (2, 2, 3)
    assert (row["trainable_parameters"], row["file_bytes"], row["step_seconds"]) == (1000, 4000, 0.5)
    assert (row["dataset"], row["task"], row["split"]) == ("lpba40", "hippocampus", "test")


def test_one_seed_has_no_spread_over_seeds(methods: list[Method]) -> None:
    row = summarise_methods(methods, "test").iloc[1]
    assert row["method"] == "full"
    assert pd.isna(row["rank"])
    assert np.isnan(row["dice_sd_seeds"])
    assert row["dice_sd_cases"] == pytest.approx(0.1)


def test_markdown_and_latex_hold_the_same_cells(methods: list[Method]) -> None:
    table = summarise_methods(methods, "test")
    lines = markdown(table, ["note"]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:4])]
    assert cells[0] == list(columns().values())
    assert cells[1] == ["lora, rank 4", "a", "0.583 ± 0.293", "± 0.212", "3.33 ± 1.53", "± 0.59", "1 of 6", "1,000",
                        "0.50", "1.00", "0.00", "2", "3"]  # fmt: skip
    assert lines[-1] == "- note"
    body = latex(table, ["note"]).split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    assert [cell.strip().replace(r"$\pm$", "±") for cell in body[0].removesuffix("\\\\").split("&")] == cells[1]
    assert r"\caption{note}" in latex(table, ["note"])


def test_the_csv_is_one_row_per_method_and_structure(make_run: Callable[..., Path]) -> None:
    run = make_run({"a": {"x": 0.5}, "b": {"x": 0.7}, "c": {"x": 0.0}})
    table = summarise_methods(group_methods([read_run(run, "test")]), "test")
    read = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert list(read["structure"]) == [ALL, "a", "b", "c"]
    assert list(read["dice_mean"]) == pytest.approx([0.4, 0.5, 0.7, 0.0])
    assert list(read["hd95_mm_mean"]) == pytest.approx([4.0, 5.0, 3.0, float("nan")], nan_ok=True)
    assert list(read["missed"]) == [1, 0, 0, 1] and list(read["predicted"]) == [3, 1, 1, 1]
    assert not read["simulated"].any()


def test_a_name_cannot_break_latex() -> None:
    assert escape_latex(r"a_b & 5 % {x} $\ ± ~^#") == (
        r"a\_b \& 5 \% \{x\} \$\textbackslash{} $\pm$ \textasciitilde{}\textasciicircum{}\#"
    )


def test_the_notes_tell_cases_seeds_spread_and_that_one_run_was_simulated(methods: list[Method]) -> None:
    table, tests = summarise_methods(methods, "test"), compare_pairs(methods)
    text = " ".join(notes(methods, table, tests))
    assert text.startswith("Simulated cohort")
    assert "3 cases, 1 to 2 seeds per method" in text
    assert "± is the standard deviation over cases" in text
    assert "differ in" not in text


def test_the_notes_tell_of_settings_that_differ_beside_the_adapter(make_run: Callable[..., Path]) -> None:
    runs = [make_run([0.8]), make_run([0.8], adapter="full", inference__mirror=True)]
    methods = group_methods([read_run(run, "test") for run in runs])
    text = " ".join(notes(methods, summarise_methods(methods, "test"), pd.DataFrame()))
    assert "differ in inference.mirror: " in text


def test_the_notes_tell_of_runs_that_were_scored_in_different_ways(make_run: Callable[..., Path]) -> None:
    runs = [make_run([0.8]), make_run([0.8], adapter="full")]
    for run, overlap in zip(runs, (0.5, 0.25), strict=True):
        path = run / "evaluation" / "test" / "summary.json"
        write_json(path, {**read_json(path), "overlap": overlap, "mirror_axes": [0], "surface_tolerance_mm": 1.0})
    methods = group_methods([read_run(run, "test") for run in runs])
    text = " ".join(notes(methods, summarise_methods(methods, "test"), pd.DataFrame()))
    assert "not scored alike: their evaluations differ in overlap." in text


def test_the_notes_say_that_seeds_are_trainings_where_the_training_cases_were_drawn_again(
    make_run: Callable[..., Path],
) -> None:
    for options, told in (({"split__seed": 1}, True), ({"seed": 1}, False)):
        methods = group_methods([read_run(run, "test") for run in (make_run([0.8]), make_run([0.9], **options))])
        text = " ".join(notes(methods, summarise_methods(methods, "test"), pd.DataFrame()))
        assert len(methods) == 1
        assert ("'Seeds' counts trainings: the training cases were drawn up to 2 times." in text) is told


def chance(make_run: Callable[..., Path], *runs: tuple[str, int, float], cases: int = 6, **options: int) -> str:
    """The notes on chance for runs given as (adapter, seed, how much worse than the first)."""
    made = [make_run([0.5 + 0.05 * k - worse for k in range(cases)], adapter=name, seed=seed, **options)
            for name, seed, worse in runs]  # fmt: skip
    methods = group_methods([read_run(run, "test") for run in made])
    return " ".join(chance_notes(methods, compare_pairs(methods)))


def test_the_notes_tell_of_chance_that_is_in_no_p(make_run: Callable[..., Path]) -> None:
    single = chance(make_run, ("one", 0, 0.1), ("two", 0, 0.0), ("two", 1, 0.0))
    assert "One seed of one, rank 4: the chance of a training is not in the p and the interval." in single
    assert "One draw of the training cases: its chance is not in the p" in single


def test_the_notes_tell_of_one_draw_and_of_seeds_that_differ_by_more_than_methods(
    make_run: Callable[..., Path],
) -> None:
    text = chance(make_run, ("one", 0, 0.1), ("one", 1, 0.0), ("two", 0, 0.04), ("two", 1, 0.05))
    assert "One draw of the training cases: its chance is not in" in text
    assert "In 1 of 1 pairs Dice of a differs by less than the seeds of one method do: one, rank 4 and two" in text
    assert "(0.0050 against 0.0707)" in text
    assert "Dice of the structures (1), HD95 mm of the structures (1)" in text


def test_few_cases_have_no_p(make_run: Callable[..., Path]) -> None:
    assert chance(make_run, ("one", 0, 0.1), ("two", 0, 0.0), cases=5).startswith("Under 6 cases there is no interval")


def test_a_new_metric_is_a_field_and_a_line_and_older_runs_lack_it(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table, tests and page follow the list of measures."""
    monkeypatch.setitem(MEASURES, "lesions", Measure("lesions found", 1, "higher", headline=True))
    monkeypatch.setattr("tcurlora_seg.compare.collect.COLUMNS", (*COLUMNS, "lesions"))
    older, newer = make_run([0.6] * 7), make_run([0.7] * 7, adapter="full")
    path = newer / "evaluation" / "test" / "cases.csv"
    pd.read_csv(path).assign(lesions=2.0).to_csv(path, index=False)
    methods = group_methods([read_run(run, "test") for run in (older, newer)])
    table, tests = summarise_methods(methods, "test"), compare_pairs(methods)
    assert list(table["lesions_mean"]) == pytest.approx([2.0, float("nan")], nan_ok=True)
    assert "| lesions found | lesions found ± seeds |" in markdown(table, [])
    assert list(tests["measure"]) == ["dice", "hd95_mm", "lesions"]
    page = build_page(methods, table, tests, [], {"cases": [], "note": ""}, [])
    assert '"title":"lesions found"' in page and "lesions found ± seeds" in page
