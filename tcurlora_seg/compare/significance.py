"""Significance tests of pairs of methods; cases, seeds and draws of the training cases are sources of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from tcurlora_seg.compare.methods import ALL, Method, headlines
from tcurlora_seg.compare.resampling import Sample, difference, sample
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.statistics import MEASURES

FEWEST_CASES = 6
"""Smallest number of pairs for an interval and a p."""


def compare_pairs(methods: Sequence[Method], reference: str | None = None) -> pd.DataFrame:
    """Tests of methods against each other.

    Args:
        methods: the methods, of equal test cases.
        reference: label, or name if that is unique, of the only method to test against; None tests all pairs.

    Returns:
        One row per pair, measure and structure: a, b, measure, structure, cases (those in which both have a figure),
        difference (mean of a - b), low, high (95 % interval), improvement (see `improvement`), p (two-sided), p_holm.
        Interval and p are NaN under `FEWEST_CASES`. Holm's correction is within a `family`.

    Raises:
        UserError: `reference` names no method, or several.
    """
    if reference is None:
        pairs = list(combinations(methods, 2))
    else:
        chosen = find_method(methods, reference)
        pairs = [(chosen, method) for method in methods if method is not chosen]
    records = []
    for structure in methods[0].scores.index.unique("structure"):
        for measure in headlines():
            samples = {method.label: sample(method, measure, structure) for method in methods}
            for a, b in pairs:
                first, second = samples[a.label], samples[b.label]
                record = {"a": a.label, "b": b.label, "measure": measure, "structure": structure}
                improved = improvement(first.scores, second.scores, MEASURES[measure].better)
                records.append(record | contrast(first, second) | {"improvement": improved})
    order = {method.label: i for i, method in enumerate(methods)}
    records.sort(key=lambda record: (order[record["a"]], order[record["b"]]))  # stable: structures and measures stay
    columns = ["a", "b", "measure", "structure", "cases", "difference", "low", "high", "improvement", "p"]
    tests = pd.DataFrame(records, columns=columns)
    tests["p_holm"] = tests.groupby(family(tests))["p"].transform(holm) if len(tests) else []
    return tests


def family(tests: pd.DataFrame) -> list[pd.Series]:
    """Keys of the families of Holm's correction: the measure, and whether the structure is the mean over all."""
    return [tests["measure"], tests["structure"] == ALL]


def find_method(methods: Sequence[Method], wanted: str) -> Method:
    """Method by its label, or by its name if that is unique.

    Raises:
        UserError: there is none, or several.
    """
    found = [m for m in methods if m.label == wanted] or [m for m in methods if m.name == wanted]
    if len(found) != 1:
        labels = "; ".join(method.label for method in found or methods)
        count = "more than one" if found else "no"
        raise UserError(f"reference={wanted} names {count} method; there are: {labels}")
    return found[0]


def contrast(a: Sample, b: Sample) -> dict[str, Any]:
    """Difference of two methods with its 95 % interval and p.

    The variance is the bootstrap's over all sources of chance. What cases and trainings share, the chance of one
    training on one case, is in each of them, and in a bootstrap over both three times (Owen 2007): it is counted once.
    With few seeds the bootstrap's own percentiles are too narrow, so interval and p are Student's t with the degrees of
    freedom of Satterthwaite (1946), s^4 / sum(v^2 / f), where s^2 is that variance and v the one that a source of f + 1
    units makes alone. With one seed a method this is the paired t test; where cases make no difference it is Welch's.

    Args:
        a, b: the two methods, of equal draws in equal order if they share their draws.

    Returns:
        cases (in which both have a figure), difference, low, high, p; the last three are NaN under `FEWEST_CASES`.
    """
    cases = int((~np.isnan(a.means - b.means)).sum())
    shift = float(difference(a, b)[0])
    found = {"cases": cases, "difference": shift, "low": np.nan, "high": np.nan, "p": np.nan}
    if cases < FEWEST_CASES:
        return found
    sources = [(cases - 1, {"cases": True})]
    if a.draws == b.draws and len(a.draws) > 1:  # drawn alike for both: a good draw is good for both
        sources.append((len(a.draws) - 1, {"training_a": True, "training_b": True}))
    else:
        sources += [(a.units - 1, {"training_a": True}), (b.units - 1, {"training_b": True})]
    alone = [(f, float(np.nanvar(difference(a, b, **which)))) for f, which in sources if f]
    together = float(np.nanvar(difference(a, b, cases=True, training_a=True, training_b=True)))
    variance = max(2 * sum(v for _, v in alone) - together, *(v for _, v in alone))
    error = math.sqrt(variance)
    if round(error, 12) == 0:  # no chance at all: rounding is no difference
        return found | {"low": shift, "high": shift, "p": float(round(shift, 12) == 0)}
    freedom = variance**2 / sum(v**2 / f for f, v in alone)
    reach = error * stats.t.ppf(0.975, freedom)
    return found | {
        "low": shift - reach, "high": shift + reach, "p": float(2 * stats.t.sf(abs(shift) / error, freedom))
    }  # fmt: skip


def improvement(a: pd.DataFrame, b: pd.DataFrame, better: str | None) -> float:
    """Probability of improvement: that a run of `a` scores better than one of `b` on the same case; ties count half.

    Mean over the cases of Mann and Whitney's U over the pairs of runs, as in rliable (Agarwal et al. 2021); NaN where
    no pair of runs has both figures.

    Args:
        a, b: scores, a row for each run and a column for each case.
        better: "lower" for a measure whose lower values are better.
    """
    gain = a.to_numpy()[:, None] - b.to_numpy()[None]
    gain = np.round(gain if better != "lower" else -gain, 12)
    wins = np.where(np.isnan(gain), np.nan, (gain > 0) + 0.5 * (gain == 0)).reshape(-1, gain.shape[-1])
    known = ~np.isnan(wins).all(axis=0)
    return float(np.nanmean(wins[:, known], axis=0).mean()) if known.any() else math.nan


def holm(p: pd.Series) -> pd.Series:
    """Holm's adjusted p (1979): max over j <= i of min(1, (m - j + 1) p_(j)) for sorted p; NaN is not counted."""
    known = p.dropna().sort_values()
    return (known * np.arange(len(known), 0, -1)).cummax().clip(upper=1).reindex(p.index)
