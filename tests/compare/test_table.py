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
from tcurlora_seg.compare.significance import compare_pairs
from tcurlora_seg.compare.table import (
    HEADINGS,
    escape_latex,
    latex,
    markdown,
    notes,
    summarise_methods,
    test_note,
)
from tcurlora_seg.files import read_json, write_json

test_note.__test__ = False  # a function of the table, though its name begins like a test's


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
    assert cells[0] == list(HEADINGS)
    assert cells[1] == ["lora, rank 4", "a", "0.583 ± 0.293", "3.33 ± 1.53", "1 of 6", "1,000", "0.50", "1.00", "0.00",
                        "2", "3"]  # fmt: skip
    assert lines[-1] == "- note"
    body = latex(table, ["note"]).split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    assert [cell.strip().replace(r"$\pm$", "±") for cell in body[0].removesuffix("\\\\").split("&")] == cells[1]
    assert r"\caption{note}" in latex(table, ["note"])


def test_the_csv_is_one_row_per_method_and_structure(make_run: Callable[..., Path]) -> None:
    run = make_run({"a": {"x": 0.5}, "b": {"x": 0.7}})
    table = summarise_methods(group_methods([read_run(run, "test")]), "test")
    read = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert list(read["structure"]) == [ALL, "a", "b"]
    assert list(read["dice_mean"]) == pytest.approx([0.6, 0.5, 0.7])
    assert read["hd95_mm_mean"].isna().tolist() == [True, False, False]
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


@pytest.mark.parametrize(
    ("cases", "count", "expected"),
    [
        (8, 2, "With 8 cases no p can be below 0.0078."),
        (8, 5, "of 10 comparisons the smallest corrected p not below 0.078: too few for any difference to reach 0.05."),
        (12, 3, "With 12 cases no p can be below 0.00049, and of 3 comparisons the smallest corrected p not below"),
        (1, 2, "One case allows no test."),
    ],
)
def test_the_notes_tell_what_so_few_cases_can_show(
    make_run: Callable[..., Path], cases: int, count: int, expected: str
) -> None:
    runs = [make_run([0.5 + 0.01 * k for k in range(cases)], adapter=f"m{i}") for i in range(count)]
    assert expected in test_note(compare_pairs(group_methods([read_run(run, "test") for run in runs])))
