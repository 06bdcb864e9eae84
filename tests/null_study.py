"""False alarms of a comparison: one method's seeds, parted at random into two "methods", must not differ.

    python scripts/train.py -m seed=0,1,2,3,4,5,6,7,8,9 sweep=chance ...
    python tests/null_study.py outputs/sweeps/chance

prints how often each test finds p < 0.05; docs/statistics.md holds the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import stats

from tcurlora_seg.compare.collect import find_runs, read_run
from tcurlora_seg.compare.methods import Method, group_methods
from tcurlora_seg.compare.resampling import sample
from tcurlora_seg.compare.significance import contrast

DRAWS = 100


def halves(method: Method, rng: np.random.Generator, seeds: int) -> tuple[Method, Method]:
    """Two methods that are one: `seeds` of its repeats each, chosen at random."""
    repeats = rng.permutation(method.by_repeat["repeat"].unique())
    chosen = repeats[:seeds], repeats[seeds : 2 * seeds]
    a, b = (method.by_repeat[method.by_repeat["repeat"].isin(part)] for part in chosen)
    return replace(method, label="a", by_repeat=a), replace(method, label="b", by_repeat=b)


def cases_alone(a: Method, b: Method, measure: str, structure: str) -> float:
    """p of the Wilcoxon test over cases after averaging the seeds."""
    first, second = (method.table(measure, structure).mean() for method in (a, b))
    return float(stats.wilcoxon(first - second).pvalue)


def cases_and_trainings(a: Method, b: Method, measure: str, structure: str) -> float:
    """p of the comparison."""
    return float(contrast(sample(a, measure, structure), sample(b, measure, structure))["p"])


def false_alarms(method: Method, test: Callable[..., float], seeds: int, structure: str) -> tuple[float, float]:
    """Share of p < 0.05 and the smallest p among `DRAWS` draws."""
    rng = np.random.default_rng(0)
    p = np.array([test(*halves(method, rng, seeds), "dice", structure) for _ in range(DRAWS)])
    return float((p < 0.05).mean()), float(p.min())


def main() -> None:
    runs = [read_run(directory, "test") for directory in find_runs(sys.argv[1:], "test")[0]]
    (method,) = group_methods(runs)
    structure = method.scores.index.unique("structure")[0]
    by_seed = method.table("dice", structure).mean(axis=1)
    cases = method.scores.index.unique("case")
    print(f"{method.label}: {method.repeats} seeds, {len(cases)} cases, {structure}; "
          f"Dice of the seeds {by_seed.min():.3f} to {by_seed.max():.3f}\n")  # fmt: skip
    print("| seeds a side | test | p < 0.05, of 100 | smallest p |\n|---|---|---|---|")
    for seeds in (1, 2, 3, 5):
        for name, test in (("cases alone (Wilcoxon)", cases_alone), ("cases and trainings", cases_and_trainings)):
            share, least = false_alarms(method, test, seeds, structure)
            print(f"| {seeds} | {name} | {100 * share:.0f} | {least:.2g} |")


if __name__ == "__main__":
    main()
