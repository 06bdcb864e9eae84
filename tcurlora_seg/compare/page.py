"""HTML page of a comparison: self-contained, and its tables need no script."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from tcurlora_seg.compare.methods import ALL, Method, differing_settings, headlines
from tcurlora_seg.compare.table import cells, columns
from tcurlora_seg.evaluation.report import SIMULATED, number
from tcurlora_seg.evaluation.statistics import MEASURES

GENERATOR = '<meta name="generator" content="tcurlora-seg comparison">'
_ASSETS = Path(__file__).with_name("assets")
_SCRIPTS = ("dom.js", "charts.js", "viewer.js", "page.js")
_MOST_STRUCTURES = 7  # whose tests the page holds, the mean over structures among them
_SWEPT = {"adapter.rank": "rank", "split.shots": "shots"}
_Cell = str | tuple[Any, str]  # of a table: a text, or a number to sort by with its text


def build_page(
    methods: Sequence[Method],
    table: pd.DataFrame,
    tests: pd.DataFrame,
    sentences: Sequence[str],
    viewer: dict[str, Any],
    left_out: Sequence[str],
) -> str:
    """HTML of the page.

    Args:
        methods: the methods, in the order of the table.
        table: result of `summarise_methods`.
        tests: result of `compare_pairs`.
        sentences: notes on the table.
        viewer: result of `slices.viewer`.
        left_out: a line for each run that was found and not used.
    """
    first = table.iloc[0]
    title = f"{first['dataset']}: {first['task']}"
    data = {
        "methods": [_method(method, table[table["method"] == method.label]) for method in methods],
        "structures": list(methods[0].scores.index.unique("structure")),
        "all": ALL,
        "measures": [{"name": name, **vars(MEASURES[name])} for name in headlines()],
        "curves": _curves(methods),
        "viewer": viewer,
    }
    runs = sum(len(method.runs) for method in methods)
    summary = f"{len(methods)} methods, {runs} runs, {first['cases']} {first['split']} cases"
    what, _, why = SIMULATED.partition(":")
    banner = f'<p class="banner" role="note"><strong>{escape(what.capitalize())}:</strong>{escape(why)}</p>'
    return Template((_ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        generator=GENERATOR,
        title=escape(title),
        summary=escape(summary),
        banner=banner if table["simulated"].any() else "",
        style=(_ASSETS / "page.css").read_text(encoding="utf-8"),
        script="\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        data=json.dumps(_plain(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        table=_scores(table),
        notes="".join(f"<li>{escape(note)}</li>" for note in sentences),
        tests=_tests(tests),
        runs=_runs(methods),
        settings=_settings(methods),
        environments=_environments(methods),
        left_out="".join(f"<li>Left out: {escape(line)}</li>" for line in left_out),
    )


def _method(method: Method, table: pd.DataFrame) -> dict[str, Any]:
    """What the charts need: figures by structure, each a list over the cases in one order."""
    scores = method.scores
    return {
        "label": method.label,
        "trainable": method.mean_of("trainable_parameters"),
        "cases": list(scores.index.unique("case").sort_values()),
        "structures": {
            row.structure: {
                "mean": row.dice_mean,
                "sdCases": row.dice_sd_cases,
                "sdSeeds": row.dice_sd_seeds,
                **{column: list(scores[column].xs(row.structure, level="structure").sort_index()) for column in scores},
            }
            for row in table.itertuples()
        },
    }


def _curves(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Lines of methods that differ in one swept setting alone, where it takes several values."""
    curves = []
    for key, name in _SWEPT.items():
        lines: dict[Any, list[tuple[float, int]]] = defaultdict(list)
        for i, method in enumerate(methods):
            value = method.runs[0].config.get(key)
            others = {k: v for k, v in method.extras.items() if k != key}
            rank = None if key == "adapter.rank" else method.rank
            if value is not None:
                lines[method.name, rank, tuple(sorted(others.items()))].append((value, i))
        drawn = [
            {
                "label": ", ".join([name_, *([] if rank is None else [f"rank {rank}"]), *(v for _, v in others)]),
                "points": [{"x": x, "method": i} for x, i in sorted(points)],
            }
            for (name_, rank, others), points in lines.items()
            if len({x for x, _ in points}) > 1
        ]
        if drawn:
            curves.append({"name": name, "lines": drawn})
    return curves


def _scores(table: pd.DataFrame) -> str:
    values = table[list(columns())].astype(object).to_numpy()
    rows = [
        [text if isinstance(value, str) else (value, text) for value, text in zip(line, cells(row), strict=True)]
        for line, row in zip(values, table.itertuples(), strict=True)
    ]
    return _table(columns().values(), rows, filtered=True)


def _tests(tests: pd.DataFrame) -> str:
    if tests.empty:
        return "<p>There is one method, so there is nothing to test.</p>"
    note = ""
    if tests["structure"].nunique() > _MOST_STRUCTURES:
        tests = tests[tests["structure"] == ALL]
        note = "<p>Only the mean over structures is shown; comparison_tests.csv has every structure.</p>"
    headings = ("first", "second", "measure", "structure", "mean difference", "95 % interval", "improvement", "p",
                "p Holm", "cases")  # fmt: skip
    rows: list[list[_Cell]] = []
    for row in tests.itertuples():
        measure = MEASURES[row.measure]
        digits = measure.digits + 1
        interval = f"{number(row.low, digits)} to {number(row.high, digits)}" if not math.isnan(row.low) else ""
        rows.append([
            row.a, row.b, measure.title, row.structure, (row.difference, number(row.difference, digits)),
            (row.low, interval), (row.improvement, number(row.improvement, 2)), (row.p, _p(row.p)),
            (row.p_holm, _p(row.p_holm)), (row.cases, str(row.cases)),
        ])  # fmt: skip
    return note + _table(headings, rows, filtered=not note)


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else number(value, 4)


def _runs(methods: Sequence[Method]) -> str:
    headings = ("method", "seed", "Dice", "steps", "step s", "device", "started, UTC", "commit", "run directory")
    rows: list[list[_Cell]] = []
    for method in methods:
        for run in method.runs:
            seed, dice, environment = run.config["seed"], run.summary["mean_dice"], run.environment
            steps, seconds = run.metrics["steps"], run.metrics["step_seconds"]
            rows.append([
                method.label, (seed, str(seed)), (dice, number(dice, 3)), (steps, "" if steps is None else str(steps)),
                (seconds, number(seconds, 2)), environment["device"], environment["time_utc"][:16],
                (environment["git_commit"] or "unknown")[:10], str(run.directory),
            ])  # fmt: skip
    return _table(headings, rows)


def _settings(methods: Sequence[Method]) -> str:
    differing = differing_settings(methods)
    if not differing:
        return "<p>Outside their adapters the methods were run with the same settings.</p>"
    own = [method.label for method in methods if not method.runs[0].foreign]
    table = _table(("setting", *own), [[key, *values] for key, values in differing.items()])
    return f"<p>Outside their adapters the methods differ in:</p>{table}"


def _environments(methods: Sequence[Method]) -> str:
    """Every command and every set of versions once, with the number of runs that share it."""
    environments = [run.environment for method in methods for run in method.runs]
    commands, versions = Counter(e["command"] for e in environments), Counter(map(_versions, environments))
    parts = [f"<h4>{n} runs by</h4><pre><code>python {escape(text)}</code></pre>" for text, n in commands.items()]
    return "".join(parts + [f"<h4>{n} runs with</h4><p>{escape(text)}</p>" for text, n in versions.items()])


def _versions(environment: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    return (
        f"Python {environment['python']}, {packages}; {environment['platform']}, {environment['device']}; "
        f"commit {environment['git_commit'] or 'unknown'}"
    )


def _table(headings: Iterable[str], rows: Sequence[Sequence[_Cell]], *, filtered: bool = False) -> str:
    """A table that the page's script makes sortable; columns of numbers are set to the right.

    A `filtered` one is cut to the rows of the structure that the reader chose.
    """
    headings = list(headings)
    sides = ["" if any(isinstance(row[i], str) for row in rows) else ' class="number"' for i in range(len(headings))]
    head = "".join(f'<th scope="col"{side}>{escape(h)}</th>' for h, side in zip(headings, sides, strict=True))
    body = []
    for row in rows:
        body.append("<tr>")
        for side, cell in zip(sides, row, strict=True):
            key, text = (cell, cell) if isinstance(cell, str) else cell
            body.append(f'<td{side} data-key="{"" if pd.isna(key) else escape(str(key))}">{escape(text)}</td>')
        body.append("</tr>")
    kind = "sortable filtered" if filtered else "sortable"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="table"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _plain(value: Any) -> Any:
    """The same with None for NaN, which JSON has not, and numbers rounded to what a chart can show."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(float(value), 6)
    return value
