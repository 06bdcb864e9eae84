"""Table of a comparison: one row for each method and structure, in Markdown and LaTeX, with notes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tcurlora_seg.compare.methods import ALL, Method, differing_settings, headlines
from tcurlora_seg.compare.significance import FEWEST_CASES, family
from tcurlora_seg.evaluation.report import SIMULATED, number
from tcurlora_seg.evaluation.statistics import MEASURES

_COSTS = {
    "missed": "missed", "trainable_parameters": "trainable", "step_seconds": "step s",
    "peak_memory_bytes": "memory GiB", "file_bytes": "file MB", "seeds": "seeds", "cases": "cases",
}  # fmt: skip
_SCORING = (
    "overlap", "mirror_axes", "shift", "second_look", "min_share", "min_component_ml", "largest_pieces",
    "surface_tolerance_mm", "limited",
)  # fmt: skip
"""Keys of summary.json in which runs must agree to be scored alike."""


def columns() -> dict[str, str]:
    """Columns of `summarise_methods` that the printed table shows, with their headings."""
    scores = {}
    for name in headlines():
        scores[f"{name}_mean"] = MEASURES[name].title
        scores[f"{name}_sd_seeds"] = f"{MEASURES[name].title} ± seeds"
    return {"method": "method", "structure": "structure", **scores, **_COSTS}


def summarise_methods(methods: Sequence[Method], split: str) -> pd.DataFrame:
    """Unrounded numbers of the table.

    Args:
        methods: the methods.
        split: name of the split, for the column of that name.

    Returns:
        A row for each method and structure. For each measure: `_mean` over the cases of the scores averaged over seeds,
        `_sd_cases` their standard deviation over the cases, `_sd_seeds` that of the seeds' own means; NaN for a single
        one. `missed` counts the missed structures among the `predicted`, over all cases and seeds.
    """
    records = []
    for method in methods:
        summary = method.runs[0].summary
        for structure, rows in method.by_repeat.groupby("structure", sort=False):
            scores = method.scores.xs(structure, level="structure")
            record: dict[str, Any] = {"method": method.label, "adapter": method.name, "rank": method.rank}
            record["structure"] = structure
            for measure in headlines():
                record[f"{measure}_mean"] = scores[measure].mean()
                record[f"{measure}_sd_cases"] = scores[measure].std()
                record[f"{measure}_sd_seeds"] = rows.groupby("repeat")[measure].mean().std()
            counted = rows if structure != ALL else method.by_repeat[method.by_repeat["structure"] != ALL]
            record["missed"] = int((counted["status"] == "missed").sum())
            record["predicted"] = len(counted)
            for metric in ("trainable_parameters", "step_seconds", "peak_memory_bytes", "file_bytes"):
                record[metric] = method.mean_of(metric)
            record |= {"seeds": method.repeats, "runs": len(method.runs), "cases": len(scores)}
            record |= {"dataset": summary["dataset"], "task": summary["task"], "split": split}
            records.append({**record, "simulated": bool(summary["simulated"])})
    whole = {key: "Int64" for key in ("rank", "trainable_parameters")}
    return pd.DataFrame(records).astype(whole)


def cells(row: Any) -> list[str]:
    """Texts of a row of `summarise_methods`, in the order of `columns`."""
    scores = []
    for measure in headlines():
        mean, cases, seeds = (getattr(row, f"{measure}_{part}") for part in ("mean", "sd_cases", "sd_seeds"))
        digits = MEASURES[measure].digits
        spread, between = (f"± {number(sd, digits)}" if pd.notna(sd) else "" for sd in (cases, seeds))
        scores += [f"{number(mean, digits)} {spread}".strip(), between]
    return [
        row.method,
        row.structure,
        *scores,
        f"{row.missed} of {row.predicted}",
        "" if pd.isna(row.trainable_parameters) else f"{row.trainable_parameters:,}",
        number(row.step_seconds, 2),
        number(row.peak_memory_bytes / 2**30, 2),
        number(row.file_bytes / 1e6, 2),
        str(row.seeds),
        str(row.cases),
    ]


def notes(
    methods: Sequence[Method], table: pd.DataFrame, tests: pd.DataFrame, missed_mm: float | None = None
) -> list[str]:
    """Notes on the table, one sentence each.

    Args:
        methods: the methods.
        table: result of `summarise_methods`.
        tests: result of `compare_pairs`; may be empty.
        missed_mm: see `count_missed`.
    """
    distance = "no HD95" if missed_mm is None else f"counts with an HD95 of {missed_mm:g} mm"
    first = table.iloc[0]
    seeds = sorted(set(table["seeds"]))
    words = [
        f"{first['dataset']}, {first['task']}, {first['split']} split: {first['cases']} cases, "
        f"{' to '.join(map(str, sorted({seeds[0], seeds[-1]})))} seed{'s' if seeds[-1] > 1 else ''} per method.",
        "Scores are averaged over seeds and draws case by case, then over cases; ± is the standard deviation over "
        "cases, '± seeds' that of the seeds' own means.",
        f"A missed structure has Dice 0 and {distance}; 'missed' counts them over all cases and seeds.",
        "Step time and memory are as each run met its machine: compare them only between runs that had it alone.",
    ]
    draws = max(method.draws for method in methods)
    if draws > 1:
        words[1] += f" 'Seeds' counts trainings: the training cases were drawn up to {draws} times."
    if table["simulated"].any():
        words.insert(0, f"{SIMULATED[0].upper()}{SIMULATED[1:]}.")
    differing = list(differing_settings(methods))
    if differing:
        shown = ", ".join(differing[:6]) + (" ..." if len(differing) > 6 else "")
        words.append(f"Outside their adapters the methods differ in {shown}: their scores may differ by that.")
    runs = [run.summary for method in methods for run in method.runs]
    scored = [key for key in _SCORING if len({str(summary.get(key) or None) for summary in runs}) > 1]
    if scored:
        words.append(f"The runs were not scored alike: their evaluations differ in {', '.join(scored)}.")
    limited = sorted({str(summary["limited"]) for summary in runs if summary.get("limited")})
    words += [f"Only a part of the cases was scored: {text}." for text in limited]
    return words + (chance_notes(methods, tests) if len(tests) else [])


def chance_notes(methods: Sequence[Method], tests: pd.DataFrame) -> list[str]:
    """Notes on intervals and p values: how they are computed, and which source of chance is not in them.

    Args:
        methods: the methods.
        tests: result of `compare_pairs`.
    """
    cases = int(tests["cases"].max())
    if cases < FEWEST_CASES:
        words = [f"Under {FEWEST_CASES} cases there is no interval and no p."]
    else:
        families = [
            f"{MEASURES[measure].title} of {ALL if mean else 'the structures'} ({len(rows)})"
            for (measure, mean), rows in tests.groupby(family(tests), sort=False)
        ]
        words = [
            "Intervals (95 %) and p (two-sided): Student's t with the standard error of a bootstrap over cases and "
            "trainings. 'Improvement' is the probability that a run of the first scores better on a case than one of "
            f"the second. Holm's correction is within a family of comparisons: {', '.join(families)}."
        ]
    single = [method.label for method in methods if method.repeats == 1]
    if single:
        words.append(f"One seed of {_few(single)}: the chance of a training is not in the p and the interval.")
    once = [method.label for method in methods if method.draws == 1]
    if once:
        of = "" if len(once) == len(methods) else f" of {_few(once)}"
        words.append(f"One draw of the training cases{of}: its chance is not in the p and the interval.")
    return words + _within_seeds(methods, tests)


def _within_seeds(methods: Sequence[Method], tests: pd.DataFrame) -> list[str]:
    """The sentence on the pairs whose means differ by less than the seeds of one of them."""
    measure, structure = headlines()[0], tests["structure"].iloc[0]
    by_seed = {method.label: method.table(measure, structure).mean(axis=1).std() for method in methods}
    pairs = tests[(tests["measure"] == measure) & (tests["structure"] == structure)]
    within = []
    for row in pairs.itertuples():
        seeds = max(np.nan_to_num(by_seed[row.a]), np.nan_to_num(by_seed[row.b]))
        if abs(row.difference) < seeds:
            within.append(f"{row.a} and {row.b} ({abs(row.difference):.4f} against {seeds:.4f})")
    if not within:
        return []
    what = f"{MEASURES[measure].title} of {structure}"
    return [f"In {len(within)} of {len(pairs)} pairs {what} differs by less than the seeds of one method do: "
            f"{_few(within)}."]  # fmt: skip


def _few(texts: Sequence[str]) -> str:
    return "; ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")


def markdown(table: pd.DataFrame, sentences: Sequence[str]) -> str:
    """Markdown of the `table`, with the notes `sentences` below it."""
    headings = list(columns().values())
    lines = ["| " + " | ".join(headings) + " |", "|---|---|" + "---:|" * (len(headings) - 2)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in table.itertuples()]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences)]) + "\n"


def latex(table: pd.DataFrame, sentences: Sequence[str]) -> str:
    """LaTeX of the `table` for booktabs, with the notes `sentences` as its caption."""
    headings = list(columns().values())
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape_latex(' '.join(sentences))}}}",
        "\\begin{tabular}{ll" + "r" * (len(headings) - 2) + "}",
        "\\toprule",
        " & ".join(map(escape_latex, headings)) + " \\\\",
        "\\midrule",
        *(" & ".join(map(escape_latex, cells(row))) + " \\\\" for row in table.itertuples()),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """LaTeX of a plain text."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    return re.sub(r"[\\~^±&%$#_{}]", lambda found: special.get(found[0], "\\" + found[0]), text)
