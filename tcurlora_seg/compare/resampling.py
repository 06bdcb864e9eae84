"""Stratified bootstrap over cases and trainings: which difference would other cases, seeds and draws have given?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tcurlora_seg.compare.methods import Method
from tcurlora_seg.randomness import derive

RESAMPLES = 2000


@dataclass(frozen=True)
class Sample:
    """One measure of one structure by one method.

    Attributes:
        scores: a row a repeat, by (draw, repeat), and a column a case.
        draws: the seeds of the split. Of several draws each is one unit, with all its seeds; of one, each seed is.
        units: how many there are.
        means: (1, cases), the mean over the repeats that have a figure.
        resampled: (RESAMPLES, cases), the same over resampled units.
    """

    scores: pd.DataFrame
    draws: tuple[int, ...]
    units: int
    means: NDArray[np.float64]
    resampled: NDArray[np.float64]


def sample(method: Method, measure: str, structure: str) -> Sample:
    """Resample the trainings of a method; equal draws are drawn alike in every method."""
    scores = method.table(measure, structure)
    draws = tuple(scores.index.unique("draw"))
    if len(draws) > 1:
        unit = scores.index.get_level_values("draw").map(list(draws).index)
        weights = resample(len(draws), ("draws", *draws))[:, unit]
    else:
        weights = resample(len(scores), ("seeds", method.label))
    values = scores.to_numpy()
    units = len(draws) if len(draws) > 1 else len(scores)
    return Sample(scores, draws, units, _means(values, np.ones((1, len(values)))), _means(values, weights))


def difference(
    a: Sample, b: Sample, *, cases: bool = False, training_a: bool = False, training_b: bool = False
) -> NDArray[np.float64]:
    """Mean over the cases of a - b: once as it was found, or `RESAMPLES` times with those sources drawn anew."""
    by_case = (a.resampled if training_a else a.means) - (b.resampled if training_b else b.means)
    count = by_case.shape[1]
    weights = (resample(count, ("cases",)) if cases else np.ones((1, count))) * ~np.isnan(by_case)
    with np.errstate(invalid="ignore"):  # a resample without any figure is NaN
        return (np.nan_to_num(by_case) * weights).sum(axis=1) / weights.sum(axis=1)


@lru_cache(maxsize=64)
def resample(count: int, key: tuple[str | int, ...]) -> NDArray[np.float64]:
    """(RESAMPLES, count): how often each unit is drawn; (1, 1) ones for a single unit.

    count - 1 units are drawn: the variance of a mean is then that of the sample, s^2 / count, and not smaller
    (Rao and Wu 1988), which with two or three seeds is half or a third of it.
    """
    if count < 2:
        return np.ones((1, count))
    drawn = np.random.default_rng(derive("bootstrap", *key, count)).integers(count, size=(RESAMPLES, count - 1))
    weights = np.zeros((RESAMPLES, count))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return weights


def _means(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(weights, cases): weighted means over the rows that have a figure, NaN where none has."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (weights @ np.where(known, values, 0.0)) / (weights @ known)
