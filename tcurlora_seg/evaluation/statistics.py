"""Summary of scores per case: means and spreads, with their number of cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tcurlora_seg.evaluation.metrics import POLICY


@dataclass(frozen=True)
class Measure:
    """Display of a field of `Score`.

    Attributes:
        title: its heading.
        digits: decimals.
        better: "higher", "lower", or None for a field that is no score.
        headline: whether a comparison's table, tests and charts show it.
    """

    title: str
    digits: int
    better: str | None = None
    headline: bool = False


MEASURES = {
    "dice": Measure("Dice", 3, "higher", headline=True),
    "hd95_mm": Measure("HD95 mm", 2, "lower", headline=True),
    "msd_mm": Measure("MSD mm", 2, "lower"),
    "surface_dice": Measure("surface Dice", 3, "higher"),
    "volume_ml": Measure("volume ml", 1),
    "reference_ml": Measure("reference ml", 1),
    "volume_error_ml": Measure("volume error ml", 1),
    "sensitivity": Measure("sensitivity", 3, "higher"),
    "precision": Measure("precision", 3, "higher"),
}
"""A new metric is a field of `Score` and a line here; tables, tests and the page of a comparison follow."""
COLUMNS = ("case", "patient", "structure", "status", *MEASURES, "seconds")


def summarise(cases: pd.DataFrame) -> dict[str, Any]:
    """Summary of the rows of `cases.csv` per structure.

    Returns:
        {"cases": n, "structures": {name: {measure: {"mean", "std", "n", "missed"}}}, "mean_dice": mean over structures,
        "empty_masks": {status: {"policy": in words, "count": over all structures and cases}}}.
        `std` is the sample's (n - 1), None for one case. Every measure carries `missed` beside its mean, since a
        missed structure has no distance and improves that mean by its absence; `status` counts all four.
    """
    structures = {}
    for name, rows in cases.groupby("structure", sort=False):
        counts = rows["status"].value_counts()
        status = {s: int(counts.get(s, 0)) for s in POLICY}
        spreads = {measure: _spread(rows[measure]) | {"missed": status["missed"]} for measure in MEASURES}
        structures[str(name)] = {**spreads, "status": status}
    means = [s["dice"]["mean"] for s in structures.values() if s["dice"]["mean"] is not None]
    return {
        "cases": int(cases["case"].nunique()),
        "structures": structures,
        "mean_dice": sum(means) / len(means) if means else None,
        "empty_masks": {s: {"policy": text, "count": int((cases["status"] == s).sum())} for s, text in POLICY.items()},
    }


def _spread(values: pd.Series) -> dict[str, Any]:
    known = values.dropna().astype(float)
    return {
        "mean": float(known.mean()) if len(known) else None,
        "std": float(known.std(ddof=1)) if len(known) > 1 else None,
        "n": len(known),
    }
