"""Is a difference between two methods more than the cases' chance? Paired tests and intervals over the cases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from tcurlora_seg.compare.methods import ALL, Method
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import derive

MEASURES = ("dice", "hd95_mm")
RESAMPLES = 10_000


def compare_pairs(methods: Sequence[Method], reference: str | None = None) -> pd.DataFrame:
    """Test methods against each other, case by case, seeds already averaged.

    Args:
        methods: the methods, of equal test cases.
        reference: label, or name if that is unique, of the only method to test against; None tests all pairs.

    Returns:
        One row per pair, measure and structure: a, b, measure, structure, cases (those in which both have a figure),
        difference (mean of a - b), low, high (95 % bootstrap interval), p (Wilcoxon signed rank, two-sided), p_holm.
        Holm's correction is over all pairs and structures of a measure; the mean over structures, a question of its
        own, is corrected over the pairs alone.

    Raises:
        UserError: `reference` names no method, or several.
    """
    if reference is None:
        pairs = list(combinations(methods, 2))
    else:
        chosen = find_method(methods, reference)
        pairs = [(chosen, method) for method in methods if method is not chosen]
    scores = {(m.label, measure): m.scores[measure].unstack("structure") for m in methods for measure in MEASURES}
    records = []
    for a, b in pairs:
        for structure in a.scores.index.unique("structure"):
            for measure in MEASURES if structure != ALL else MEASURES[:1]:
                first, second = (scores[method.label, measure][structure] for method in (a, b))
                difference = (first - second).dropna().to_numpy()  # aligned by case
                low, high = bootstrap_interval(difference)
                records.append({
                    "a": a.label, "b": b.label, "measure": measure, "structure": structure, "cases": len(difference),
                    "difference": difference.mean() if len(difference) else np.nan, "low": low, "high": high,
                    "p": wilcoxon(difference),
                })  # fmt: skip
    columns = ["a", "b", "measure", "structure", "cases", "difference", "low", "high", "p"]
    tests = pd.DataFrame(records, columns=columns)
    families = [tests["measure"], tests["structure"] == ALL]
    tests["p_holm"] = tests.groupby(families)["p"].transform(lambda p: holm(p.to_numpy())) if len(tests) else []
    return tests


def find_method(methods: Sequence[Method], wanted: str) -> Method:
    """The method of that label, or the only one of that name.

    Raises:
        UserError: there is none, or several.
    """
    found = [m for m in methods if m.label == wanted] or [m for m in methods if m.name == wanted]
    if len(found) != 1:
        labels = "; ".join(method.label for method in found or methods)
        count = "more than one" if found else "no"
        raise UserError(f"reference={wanted} names {count} method; there are: {labels}")
    return found[0]


def wilcoxon(difference: NDArray[np.float64]) -> float:
    """Two-sided p of the signed rank test; 1 if nothing differs, NaN with fewer than two cases.

    Differences of no more than rounding count as none, else averaging seeds in another order could decide a rank.
    """
    if len(difference) < 2:
        return float("nan")
    difference = np.round(difference, 12)
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference).pvalue)


def smallest_p(cases: int) -> float:
    """The smallest p that a two-sided signed rank test of so many pairs can give: all differences of one sign."""
    return 2.0 / 2**cases


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's adjusted p (1979): max over j <= i of min(1, (m - j + 1) p_(j)), p sorted; NaN is no test."""
    adjusted = np.full(len(p), np.nan)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    largest = 0.0
    for position, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - position) * p[i]))
        adjusted[i] = largest
    return adjusted


def bootstrap_interval(difference: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the mean over resampled cases; the same draws for every pair of so many cases."""
    n = len(difference)
    if n < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(_weights(n) @ difference, [2.5, 97.5])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _weights(n: int) -> NDArray[np.float64]:
    """(RESAMPLES, n): how often each case was drawn, divided by n."""
    draws = np.random.default_rng(derive("bootstrap", n)).integers(n, size=(RESAMPLES, n))
    counts = np.zeros((RESAMPLES, n))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], draws), 1)
    return counts / n
