"""The table of a comparison: one row per method and structure, as CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tcurlora_seg.compare.methods import ALL, Method, differing_settings
from tcurlora_seg.compare.significance import MEASURES, RESAMPLES, smallest_p
from tcurlora_seg.evaluation.report import SIMULATED

HEADINGS = (
    "method", "structure", "Dice", "HD95 mm", "missed", "trainable", "step s", "memory GiB", "file MB", "seeds", "cases"
)  # fmt: skip


def summarise_methods(methods: Sequence[Method], split: str) -> pd.DataFrame:
    """The numbers of the table, unrounded.

    Per measure: the mean over cases of the scores averaged over seeds, `_sd_cases` the spread of these over the cases
    and `_sd_seeds` the spread of the seeds' own means, both sample standard deviations; NaN for a single one. A
    missed structure has Dice 0 and no distance: `missed` of `predicted` counts them, over all cases and seeds.
    """
    records = []
    for method in methods:
        summary = method.runs[0].summary
        for structure, rows in method.by_repeat.groupby("structure", sort=False):
            scores = method.scores.xs(structure, level="structure")
            record: dict[str, Any] = {"method": method.label, "adapter": method.name, "rank": method.rank}
            record["structure"] = structure
            for measure in MEASURES if structure != ALL else MEASURES[:1]:
                record[f"{measure}_mean"] = scores[measure].mean()
                record[f"{measure}_sd_cases"] = scores[measure].std()
                record[f"{measure}_sd_seeds"] = rows.groupby("repeat")[measure].mean().std()
            if structure != ALL:
                record["missed"] = int((rows["status"] == "missed").sum())
                record["predicted"] = len(rows)
            for metric in ("trainable_parameters", "step_seconds", "peak_memory_bytes", "file_bytes"):
                record[metric] = method.mean_of(metric)
            record |= {"seeds": method.repeats, "runs": len(method.runs), "cases": len(scores)}
            record |= {"dataset": summary["dataset"], "task": summary["task"], "split": split}
            records.append({**record, "simulated": bool(summary["simulated"])})
    whole = {key: "Int64" for key in ("rank", "missed", "predicted", "trainable_parameters")}
    return pd.DataFrame(records).reindex(columns=_COLUMNS).astype(whole)


_SCORING = ("overlap", "mirror_axes", "min_component_ml", "largest_pieces", "surface_tolerance_mm")  # of summary.json
_COLUMNS = (
    "method", "adapter", "rank", "structure",
    *(f"{measure}_{part}" for measure in MEASURES for part in ("mean", "sd_cases", "sd_seeds")),
    "missed", "predicted", "trainable_parameters", "step_seconds", "peak_memory_bytes", "file_bytes",
    "seeds", "runs", "cases", "dataset", "task", "split", "simulated",
)  # fmt: skip


def cells(row: Any) -> list[str]:
    """One row of `summarise_methods` as text, in the order of `HEADINGS`."""
    known = not pd.isna(row.missed)
    return [
        row.method,
        row.structure,
        spread(row.dice_mean, row.dice_sd_cases, 3),
        spread(row.hd95_mm_mean, row.hd95_mm_sd_cases, 2),
        f"{row.missed} of {row.predicted}" if known else "",
        f"{row.trainable_parameters:,}",
        number(row.step_seconds, 2),
        number(row.peak_memory_bytes / 2**30, 2),
        number(row.file_bytes / 1e6, 2),
        str(row.seeds),
        str(row.cases),
    ]


def number(value: float, digits: int) -> str:
    """A rounded number, or nothing for NaN."""
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def spread(mean: float, sd: float, digits: int) -> str:
    """`mean ± sd`, as far as they are known."""
    return number(mean, digits) + ("" if pd.isna(mean) or pd.isna(sd) else f" ± {sd:.{digits}f}")


def notes(methods: Sequence[Method], table: pd.DataFrame, tests: pd.DataFrame) -> list[str]:
    """What a reader must know about the table, sentence by sentence."""
    first = table.iloc[0]
    seeds = sorted(set(table["seeds"]))
    words = [
        f"{first['dataset']}, {first['task']}, {first['split']} split: {first['cases']} cases, "
        f"{' to '.join(map(str, sorted({seeds[0], seeds[-1]})))} seed{'s' if seeds[-1] > 1 else ''} per method.",
        "Scores are averaged over seeds case by case, then over cases; ± is the standard deviation over cases.",
        "A missed structure has Dice 0 and no HD95; 'missed' counts them over all cases and seeds.",
        "Step time and memory are as each run met its machine: compare them only between runs that had it alone.",
    ]
    if table["simulated"].any():
        words.insert(0, f"{SIMULATED[0].upper()}{SIMULATED[1:]}.")
    differing = list(differing_settings(methods))
    if differing:
        shown = ", ".join(differing[:6]) + (" ..." if len(differing) > 6 else "")
        words.append(f"Outside their adapters the methods differ in {shown}: their scores may differ by that.")
    summaries = [run.summary for m in methods for run in m.runs]
    scored = [key for key in _SCORING if len({str(summary.get(key) or None) for summary in summaries}) > 1]
    if scored:
        words.append(f"The runs were not scored alike: their evaluations differ in {', '.join(scored)}.")
    return words + ([test_note(tests)] if len(tests) else [])


def test_note(tests: pd.DataFrame) -> str:
    """How the p values came about, and what they can at best be with so few cases."""
    cases = int(tests["cases"].max())
    family = max(int(count) for count in tests.groupby(["measure", tests["structure"] == ALL])["p"].count())
    text = (
        f"Two-sided Wilcoxon signed rank tests over cases, Holm's correction; 95 % percentile bootstrap intervals "
        f"({RESAMPLES:,} resamples of the cases)."
    )
    if cases < 2 or not family:
        return text + " One case allows no test."
    least = smallest_p(cases)
    text += f" With {cases} cases no p can be below {least:.2g}"
    if family > 1:
        text += f", and of {family} comparisons the smallest corrected p not below {min(1.0, family * least):.2g}"
    return text + (": too few for any difference to reach 0.05." if family * least > 0.05 else ".")


def markdown(table: pd.DataFrame, sentences: Sequence[str]) -> str:
    """The table and its notes for a README."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|---|" + "---:|" * (len(HEADINGS) - 2)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in table.itertuples()]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences)]) + "\n"


def latex(table: pd.DataFrame, sentences: Sequence[str]) -> str:
    """The table for a paper that uses booktabs; its notes are the caption."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape_latex(' '.join(sentences))}}}",
        "\\begin{tabular}{ll" + "r" * (len(HEADINGS) - 2) + "}",
        "\\toprule",
        " & ".join(map(escape_latex, HEADINGS)) + " \\\\",
        "\\midrule",
        *(" & ".join(map(escape_latex, cells(row))) + " \\\\" for row in table.itertuples()),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Plain text as LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    return re.sub(r"[\\~^±&%$#_{}]", lambda found: special.get(found[0], "\\" + found[0]), text)
