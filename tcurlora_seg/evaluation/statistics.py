"""From scores per case to the summary of a run: means and spreads that say how many cases they stand on."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tcurlora_seg.evaluation.metrics import POLICY

MEASURES = (
    "dice", "hd95_mm", "msd_mm", "surface_dice", "volume_ml", "reference_ml", "volume_error_ml", "sensitivity",
    "precision",
)  # fmt: skip
COLUMNS = ("case", "patient", "structure", "status", *MEASURES, "seconds")


def summarise(cases: pd.DataFrame) -> dict[str, Any]:
    """Reduce the rows of `cases.csv` per structure.

    Returns:
        {"cases": n, "structures": {name: {measure: {"mean", "std", "n"}}}, "mean_dice": the mean over structures,
        "empty_masks": {status: {"policy": in words, "count": over all structures and cases}}}.
        `std` is the sample's (n - 1), None for one case. `hd95_mm` also carries `missed`, since a missed structure
        has no distance and would otherwise improve the mean by its absence; `status` counts all four.
    """
    structures = {}
    for name, rows in cases.groupby("structure", sort=False):
        measures: dict[str, Any] = {measure: _spread(rows[measure]) for measure in MEASURES}
        counts = rows["status"].value_counts()
        measures["status"] = {s: int(counts.get(s, 0)) for s in POLICY}
        measures["hd95_mm"]["missed"] = measures["status"]["missed"]
        structures[str(name)] = measures
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
