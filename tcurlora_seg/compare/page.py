"""The one page over many runs: everything inside it, nothing fetched, readable without a script but for the charts."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from tcurlora_seg.compare.methods import ALL, Method, differing_settings, headlines
from tcurlora_seg.compare.table import cells, columns, number
from tcurlora_seg.evaluation.report import SIMULATED
from tcurlora_seg.evaluation.statistics import MEASURES

GENERATOR = '<meta name="generator" content="tcurlora-seg comparison">'
_ASSETS = Path(__file__).with_name("assets")
_SCRIPTS = ("dom.js", "charts.js", "viewer.js", "page.js")
_MOST_STRUCTURES = 7  # whose tests the page holds, the mean over structures among them
_SWEPT = {"adapter.rank": "rank", "split.shots": "shots"}


def build_page(
    methods: Sequence[Method],
    table: pd.DataFrame,
    tests: pd.DataFrame,
    sentences: Sequence[str],
    viewer: dict[str, Any],
    left_out: Sequence[str],
) -> str:
    """The page as HTML.

    Args:
        methods: in the order of the table.
        table: of `summarise_methods`.
        tests: of `compare_pairs`.
        sentences: what must be said about the table.
        viewer: of `slices.viewer`.
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
        data=json.dumps(_plain(data), separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        table=_table(
            columns().values(), map(cells, table.itertuples()), _plain_rows(table[list(columns())]), filtered=True
        ),
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


def _plain_rows(table: pd.DataFrame) -> list[list[Any]]:
    return table.astype(object).to_numpy().tolist()


def _tests(tests: pd.DataFrame) -> str:
    if tests.empty:
        return "<p>There is one method, so there is nothing to test.</p>"
    note = ""
    if tests["structure"].nunique() > _MOST_STRUCTURES:
        tests = tests[tests["structure"] == ALL]
        note = "<p>Only the mean over structures is shown; comparison_tests.csv has every structure.</p>"
    headings = ("first", "second", "measure", "structure", "mean difference", "95 % interval", "improvement", "p",
                "p Holm", "cases")  # fmt: skip
    rows, keys = [], []
    for row in tests.itertuples():
        measure = MEASURES[row.measure]
        digits = measure.digits + 1
        interval = f"{number(row.low, digits)} to {number(row.high, digits)}" if not math.isnan(row.low) else ""
        rows.append([row.a, row.b, measure.title, row.structure, number(row.difference, digits), interval,
                     number(row.improvement, 2), _p(row.p), _p(row.p_holm), str(row.cases)])  # fmt: skip
        keys.append([row.a, row.b, measure.title, row.structure, row.difference, row.low, row.improvement, row.p,
                     row.p_holm, row.cases])  # fmt: skip
    return note + _table(headings, rows, keys, filtered=not note)


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else number(value, 4)


def _runs(methods: Sequence[Method]) -> str:
    headings = ("method", "seed", "Dice", "steps", "step s", "device", "started, UTC", "commit", "run directory")
    rows = [
        [m.label, str(r.config["seed"]), number(_number(r.summary["mean_dice"]), 3), str(r.metrics["steps"]),
         number(_number(r.metrics["step_seconds"]), 2), r.environment["device"], r.environment["time_utc"][:16],
         (r.environment["git_commit"] or "unknown")[:10], str(r.directory)]
        for m in methods for r in m.runs
    ]  # fmt: skip
    keys = [[row[0], int(row[1]), _number(row[2]), int(row[3]), _number(row[4]), *row[5:]] for row in rows]
    return _table(headings, rows, keys)


def _settings(methods: Sequence[Method]) -> str:
    differing = differing_settings(methods)
    if not differing:
        return "<p>Outside their adapters the methods were run with the same settings.</p>"
    rows = [[key, *values] for key, values in differing.items()]
    return "<p>Outside their adapters the methods differ in:</p>" + _table(
        ("setting", *(m.label for m in methods)), rows, rows
    )


def _environments(methods: Sequence[Method]) -> str:
    """Every command and every set of versions once, with the number of runs that share it."""
    parts = []
    runs = [run for method in methods for run in method.runs]
    commands = pd.Series([run.environment["command"] for run in runs]).value_counts(sort=False)
    for command, count in commands.items():
        parts.append(f"<h4>{count} runs by</h4><pre><code>python {escape(str(command))}</code></pre>")
    versions = pd.Series([_versions(run.environment) for run in runs]).value_counts(sort=False)
    parts += [f"<h4>{count} runs with</h4><p>{escape(str(text))}</p>" for text, count in versions.items()]
    return "".join(parts)


def _versions(environment: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    return (
        f"Python {environment['python']}, {packages}; {environment['platform']}, {environment['device']}; "
        f"commit {environment['git_commit'] or 'unknown'}"
    )


def _table(
    headings: Iterable[str], rows: Iterable[Sequence[str]], keys: Sequence[Sequence[Any]], *, filtered: bool = False
) -> str:
    """A table that the page's script makes sortable by `keys`; columns of numbers are set to the right.

    A `filtered` one is cut to the rows of the structure that the reader chose.
    """
    headings = list(headings)
    numeric = [all(not isinstance(line[i], str) for line in keys) for i in range(len(headings))]
    sides = [' class="number"' if column else "" for column in numeric]
    head = "".join(f'<th scope="col"{side}>{escape(h)}</th>' for h, side in zip(headings, sides, strict=True))
    body = []
    for row, line in zip(rows, keys, strict=True):
        parts = [
            f'<td{side} data-key="{"" if pd.isna(key) else escape(str(key))}">{escape(text)}</td>'
            for side, text, key in zip(sides, row, line, strict=True)
        ]
        body.append(f"<tr>{''.join(parts)}</tr>")
    kind = "sortable filtered" if filtered else "sortable"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="table"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _number(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)


def _plain(value: Any) -> Any:
    """The same with None for NaN, which JSON has not, and numbers rounded to what a chart can show."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(float(value), 6)
    return value
