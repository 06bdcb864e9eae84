"""The tests against literal computations: signs enumerated, Holm step by step, intervals by scipy's bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tcurlora_seg.compare.collect import read_run
from tcurlora_seg.compare.methods import ALL, group_methods
from tcurlora_seg.compare.significance import (
    bootstrap_interval,
    compare_pairs,
    holm,
    smallest_p,
    wilcoxon,
)
from tcurlora_seg.errors import UserError


def exact_p(difference: NDArray[np.float64]) -> float:
    """The share of all assignments of signs whose rank sum is at least as far from its mean."""
    ranks = stats.rankdata(np.abs(difference))
    distance = [abs(np.dot(signs, ranks)) for signs in product((-1, 1), repeat=len(ranks))]
    return float(np.mean(np.array(distance) >= abs(np.dot(np.sign(difference), ranks)) - 1e-9))


@pytest.mark.parametrize("n", [2, 5, 8, 11])
def test_wilcoxon_is_the_enumeration_of_all_signs(n: int) -> None:
    for seed in range(5):
        difference = np.random.default_rng(seed).normal(0.4, 1, n)
        assert wilcoxon(difference) == pytest.approx(exact_p(difference), abs=1e-12)


def test_eight_cases_of_one_sign_give_the_smallest_p() -> None:
    assert wilcoxon(np.arange(1.0, 9)) == pytest.approx(smallest_p(8)) == pytest.approx(0.0078125)


def test_rounding_is_no_difference_and_one_case_no_test() -> None:
    assert wilcoxon(np.full(6, 1e-17)) == 1
    assert np.isnan(wilcoxon(np.array([0.1])))


def test_holm_is_the_procedure_of_the_textbook() -> None:
    assert list(holm(np.array([0.01, 0.04, 0.03, 0.005]))) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = holm(np.array([0.01, np.nan, 0.03]))
    assert list(with_gap[[0, 2]]) == pytest.approx([0.02, 0.03])
    assert np.isnan(with_gap[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(values: list[float]) -> None:
    adjusted = holm(np.array(values))
    for level in (0.01, 0.05, 0.2):
        rejected, left = set(), sorted(range(len(values)), key=lambda i: values[i])
        while left and values[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {i for i in range(len(values)) if adjusted[i] <= level} == rejected


def test_intervals_agree_with_scipys_bootstrap() -> None:
    difference = np.random.default_rng(1).normal(0.1, 0.3, 20)
    expected = stats.bootstrap((difference,), np.mean, method="percentile", n_resamples=20_000, rng=0)
    assert bootstrap_interval(difference) == pytest.approx(tuple(expected.confidence_interval), abs=0.01)
    assert bootstrap_interval(difference) == bootstrap_interval(difference)
    assert np.isnan(bootstrap_interval(difference[:1])).all()


def test_pairs_are_aligned_by_case_after_averaging_the_seeds(make_run: Callable[..., Path]) -> None:
    ordered = {"a": {"x": 0.1, "y": 0.5, "z": 0.9}, "b": {"x": 0.5, "y": 0.5, "z": 0.5}}
    shuffled = {s: dict(reversed(by_case.items())) for s, by_case in ordered.items()}
    better = {s: {case: dice + 0.02 for case, dice in by_case.items()} for s, by_case in ordered.items()}
    runs = [
        make_run(shuffled, adapter="plain", seed=0), make_run(ordered, adapter="plain", seed=1),
        make_run(better, adapter="more", seed=0), make_run(ordered, adapter="more", seed=1),
    ]  # fmt: skip
    tests = compare_pairs(group_methods([read_run(run, "test") for run in runs]))
    rows = tests.set_index(["measure", "structure"])
    assert set(rows.index) == {("dice", ALL), ("dice", "a"), ("dice", "b"), ("hd95_mm", "a"), ("hd95_mm", "b")}
    for structure in ("a", "b", ALL):
        row = rows.loc[("dice", structure)]
        assert (row["a"], row["b"]) == ("more, rank 4", "plain, rank 4")
        assert [row["difference"], row["low"], row["high"]] == pytest.approx([0.01] * 3)
        assert row["p"] == pytest.approx(0.25)
    assert rows.loc[("dice", "a"), "p_holm"] == pytest.approx(0.5)  # two structures
    assert rows.loc[("dice", ALL), "p_holm"] == pytest.approx(0.25)  # a question of its own


def test_a_missed_structure_leaves_the_pair_of_distances(make_run: Callable[..., Path]) -> None:
    runs = [make_run([0.8, 0.9, 0.7]), make_run([0.8, 0.0, 0.9], adapter="full")]
    tests = compare_pairs(group_methods([read_run(run, "test") for run in runs]))
    assert dict(zip(tests["measure"], tests["cases"], strict=True)) == {"dice": 3, "hd95_mm": 2}


def test_a_reference_asks_fewer_questions(make_run: Callable[..., Path]) -> None:
    runs = [make_run([0.8, 0.9], adapter=name) for name in "abc"] + [make_run([0.8, 0.9], adapter="a", rank=8)]
    methods = group_methods([read_run(run, "test") for run in runs])
    assert len(compare_pairs(methods)) == 2 * 6
    tests = compare_pairs(methods, "b")
    assert set(tests["a"]) == {"b, rank 4"}
    assert list(tests["b"].unique()) == ["a, rank 4", "a, rank 8", "c, rank 4"]
    assert set(compare_pairs(methods, "a, rank 8")["a"]) == {"a, rank 8"}
    with pytest.raises(UserError, match=r"reference=a names more than one method.*a, rank 4; a, rank 8"):
        compare_pairs(methods, "a")
    with pytest.raises(UserError, match="reference=d names no method"):
        compare_pairs(methods, "d")
    assert compare_pairs(methods[:1]).empty
