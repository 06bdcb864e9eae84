"""Stratified bootstrap over cases and trainings."""

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
        draws: those of the training cases.
        units: how many trainings are resampled: of several draws each is one unit, the mean over its seeds; of one
            draw each seed is.
        means: (1, cases), the mean over the units that have a figure.
        resampled: (RESAMPLES, cases), the same over resampled units.
    """

    scores: pd.DataFrame
    draws: tuple[int, ...]
    units: int
    means: NDArray[np.float64]
    resampled: NDArray[np.float64]


def sample(method: Method, measure: str, structure: str) -> Sample:
    """Bootstrap sample of a method's trainings; equal draws are resampled alike in every method."""
    scores = method.table(measure, structure)
    draws = tuple(scores.index.unique("draw"))
    if len(draws) > 1:
        units, key = scores.groupby(level="draw").mean().to_numpy(), ("draws", *draws)
    else:
        units, key = scores.to_numpy(), ("seeds", method.label)
    once = np.ones((1, len(units)))
    return Sample(scores, draws, len(units), _means(units, once), _means(units, resample(len(units), key)))


def difference(
    a: Sample, b: Sample, *, cases: bool = False, training_a: bool = False, training_b: bool = False
) -> NDArray[np.float64]:
    """Mean difference a - b over the cases in which both have a figure.

    Args:
        a, b: the two methods.
        cases: whether the cases are resampled.
        training_a, training_b: whether the trainings of a and of b are.

    Returns:
        (RESAMPLES,), or (1,) if nothing is resampled; NaN without any figure.
    """
    by_case = (a.resampled if training_a else a.means) - (b.resampled if training_b else b.means)
    by_case = by_case[:, ~np.isnan(a.means - b.means)[0]]
    count = by_case.shape[1]
    weights = (resample(count, ("cases",)) if cases else np.ones((1, count))) * ~np.isnan(by_case)
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(by_case) * weights).sum(axis=1) / weights.sum(axis=1)


@lru_cache(maxsize=64)
def resample(count: int, key: tuple[str | int, ...]) -> NDArray[np.float64]:
    """Bootstrap weights (RESAMPLES, count): how often each unit is drawn; ones (1, count) for a single unit.

    count - 1 units are drawn (Rao and Wu 1988): the variance of a mean is then that of the sample, s^2 / count.
    Drawing all of them gives (count - 1) / count of it, half with two seeds.

    Args:
        count: number of units.
        key: what the draws are derived from; the same key gives the same draws.
    """
    if count < 2:
        return np.ones((1, count))
    drawn = np.random.default_rng(derive("bootstrap", *key, count)).integers(count, size=(RESAMPLES, count - 1))
    weights = np.zeros((RESAMPLES, count))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return weights


def _means(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means (weights, cases) over the rows that have a figure, NaN where none has."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (weights @ np.where(known, values, 0.0)) / (weights @ known)
