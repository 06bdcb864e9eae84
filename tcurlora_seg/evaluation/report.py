"""Table of scores in the terminal, after a run or an evaluation."""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

_ALL, _WORST = 20, 10
SIMULATED = "simulated cohort: images and their variation are made; these scores say nothing about real patients"


def print_summary(cases: pd.DataFrame, summary: dict[str, Any], metrics: dict[str, Any] | None = None) -> None:
    """Print the scores per case, the means, and the costs of the training.

    Args:
        cases: rows of `cases.csv`.
        summary: contents of `summary.json`.
        metrics: contents of `metrics.json`, for a run just trained.
    """
    console = Console(width=None if sys.stdout.isatty() else 110, markup=False, highlight=False)
    table = Table(title=f"{summary['dataset']} / {summary['task']} / {summary['adapter']}", title_justify="left")
    for heading in ("case", "structure", "status"):
        table.add_column(heading)
    for heading in ("Dice", "HD95 mm", "volume ml", "reference ml"):
        table.add_column(heading, justify="right")
    shown = cases if cases["structure"].nunique() <= 4 else cases.iloc[:0]  # 56 structures: means only
    if cases["case"].nunique() > _ALL:
        shown = shown.dropna(subset="dice").nsmallest(_WORST, "dice")
        table.caption = f"the worst {len(shown)} of {len(cases)} rows; cases.csv has all"
    for row in shown.itertuples():
        table.add_row(row.case, row.structure, row.status, number(row.dice, 3), number(row.hd95_mm, 2),
                      _volume(row.volume_ml), _volume(row.reference_ml))  # fmt: skip
    table.add_section()
    for name, measures in summary["structures"].items():
        dice, hd95 = measures["dice"], measures["hd95_mm"]
        missed = f"{hd95['missed']} missed" if hd95["missed"] else ""
        volumes = [_volume(measures[key]["mean"]) for key in ("volume_ml", "reference_ml")]
        table.add_row(f"mean of {dice['n']}", name, missed, _spread(dice, 3), _spread(hd95, 2), *volumes)
    console.print(table)
    if metrics:
        share = 100 * metrics["trainable_parameters"] / metrics["total_parameters"]
        console.print(
            f"trained {metrics['trainable_parameters']:,} of {metrics['total_parameters']:,} parameters "
            f"({share:.2f} %) in {metrics['train_seconds']:.0f} s, {metrics['steps']} steps of "
            f"{metrics['step_seconds']:.2f} s, peak memory {metrics['peak_memory_bytes'] / 2**30:.1f} GiB, "
            f"model file {metrics['file_bytes'] / 1e6:.2f} MB"
        )
        if metrics["not_predicted"]:
            lost = ", ".join(metrics["not_predicted"])
            console.print(f"{lost}: in the training labels, but not predicted at the end of training", style="red")
    if summary.get("limited"):
        console.print(f"scored: {summary['limited']}", style="yellow")
    for remark in summary["unusual"][:5]:
        console.print(f"{remark['case']}: {remark['unusual']}", style="yellow")
    if more := len(summary["unusual"][5:]):
        console.print(f"{more} more remarks are in summary.json", style="yellow")
    if summary["simulated"]:
        console.print(SIMULATED, style="yellow")


def _volume(value: float | None) -> str:
    """One decimal, or three digits of what is smaller than a tenth."""
    return number(value, 1) if value is None or not 0 < value < 0.1 else f"{value:.3g}"


def number(value: float | None, digits: int) -> str:
    """Text of `value` rounded to `digits` decimals; empty for None and NaN."""
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _spread(measure: dict[str, Any], digits: int) -> str:
    if measure["mean"] is None:
        return ""
    spread = f" ± {measure['std']:.{digits}f}" if measure["std"] is not None else ""
    return f"{measure['mean']:.{digits}f}{spread}"
