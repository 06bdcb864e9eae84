"""The tests against textbooks: paired t, Welch's t, Holm step by step, and no finding where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tcurlora_seg.compare.collect import read_run
from tcurlora_seg.compare.methods import ALL, Method, group_methods
from tcurlora_seg.compare.resampling import Sample, resample, sample
from tcurlora_seg.compare.significance import compare_pairs, contrast, holm, improvement
from tcurlora_seg.errors import UserError


def run_of(values: NDArray[np.float64], label: str, draws: list[int] | None = None) -> Sample:
    """A sample from (repeats, cases)."""
    seeds, cases = values.shape
    index = pd.MultiIndex.from_arrays([draws or [0] * seeds, [str(i) for i in range(seeds)]], names=["draw", "repeat"])
    table = pd.DataFrame(values, index=index, columns=[f"c{i:03d}" for i in range(cases)])
    return sample(cast(Method, SimpleNamespace(label=label, table=lambda *_: table)), "dice", "a")


def scores(seed: int, *, seeds: int, cases: int, training: float, share: float) -> NDArray[np.float64]:
    """Cases of one difficulty whatever the method, trainings that differ, and what a training does to one case."""
    rng = np.random.default_rng(seed)
    difficulty = np.random.default_rng(99).normal(0.7, 0.1, cases)
    return difficulty + rng.normal(0, training, (seeds, 1)) + rng.normal(0, share, (seeds, cases))


def test_with_one_seed_a_method_it_is_the_paired_t_test() -> None:
    a, b = (scores(i, seeds=1, cases=12, training=0, share=0.05) for i in range(2))
    found = contrast(run_of(a, "a"), run_of(b, "b"))
    expected = stats.ttest_rel(a[0], b[0])
    assert found["p"] == pytest.approx(expected.pvalue, rel=0.1)  # the bootstrap's standard error has its own noise
    assert [found["low"], found["high"]] == pytest.approx(list(expected.confidence_interval()), abs=0.004)


def test_where_cases_make_no_difference_it_is_welchs_t_test_over_seeds() -> None:
    a, b = scores(0, seeds=4, cases=9, training=0.03, share=0), scores(1, seeds=3, cases=9, training=0.08, share=0)
    found = contrast(run_of(a, "a"), run_of(b, "b"))
    expected = stats.ttest_ind(a.mean(axis=1), b.mean(axis=1), equal_var=False)
    assert found["p"] == pytest.approx(expected.pvalue, rel=0.1)


def test_draws_that_methods_share_are_drawn_alike_and_take_their_seeds_along() -> None:
    """A draw that is hard for both methods says nothing about their difference."""
    hard = np.repeat([0.0, -0.3, 0.2, 0.1], 2)[:, None]
    draws = [0, 0, 1, 1, 2, 2, 3, 3]
    a, b = (scores(i, seeds=8, cases=30, training=0.004, share=0.01) + hard for i in range(2))
    together = contrast(run_of(a + 0.02, "a", draws), run_of(b, "b", draws))
    assert together["p"] < 0.05
    apart = contrast(run_of(a + 0.02, "a", draws), run_of(b, "b", [d + 10 for d in draws]))
    assert apart["p"] > 0.5
    difference = (a - b).mean(axis=1).reshape(4, 2).mean(axis=1) + 0.02
    assert together["high"] - together["low"] == pytest.approx(
        np.ptp(stats.ttest_1samp(difference, 0).confidence_interval()), rel=0.3
    )


def test_draws_weigh_alike_however_many_seeds_each_has() -> None:
    """Else an easy draw, of which one method has more seeds, would be a difference of the methods."""
    easy = np.array([0.3, 0.3, 0.3, 0.0, -0.1])[:, None]
    a, b = (scores(i, seeds=5, cases=30, training=0.004, share=0.01) for i in range(2))
    found = contrast(run_of(a + easy, "a", [0, 0, 0, 1, 2]), run_of(b + easy[::-1], "b", [2, 1, 0, 0, 0]))
    assert abs(found["difference"]) < 0.01 and found["p"] > 0.05


def test_three_draws_of_one_method_are_no_two_methods() -> None:
    found = []
    for i in range(100):
        hard = np.random.default_rng(1000 + i).normal(0, 0.03, (3, 1))
        a, b = (scores(2 * i + k, seeds=3, cases=12, training=0.02, share=0.02) + hard for k in range(2))
        found.append(contrast(run_of(a, "a", [0, 1, 2]), run_of(b, "b", [0, 1, 2]))["p"])
    assert np.mean(np.array(found) < 0.05) <= 0.08  # 5 of 100 are expected


def test_cases_without_a_figure_are_not_resampled() -> None:
    a, b = (scores(i, seeds=1, cases=40, training=0, share=0.05) for i in range(2))
    a[:, 8:] = np.nan
    found, expected = contrast(run_of(a, "a"), run_of(b, "b")), stats.ttest_rel(a[0, :8], b[0, :8])
    assert found["cases"] == 8
    assert [found["low"], found["high"]] == pytest.approx(list(expected.confidence_interval()), abs=0.003)


def test_ten_seeds_of_one_method_are_no_two_methods() -> None:
    """The null study of docs/statistics.md in small: seeds parted at random are told apart in one of twenty."""
    found, cases_alone = [], []
    for i in range(60):
        values = scores(i, seeds=10, cases=40, training=0.03, share=0.02)
        order = np.random.default_rng(i).permutation(10)
        a, b = values[order[:5]], values[order[5:]]
        found.append(contrast(run_of(a, "a"), run_of(b, "b"))["p"])
        cases_alone.append(stats.wilcoxon(a.mean(axis=0), b.mean(axis=0)).pvalue)
    assert np.mean(np.array(found) < 0.05) <= 0.1  # 3 of 60 are expected
    assert np.mean(np.array(cases_alone) < 0.05) > 0.5


def test_a_difference_that_is_there_is_found() -> None:
    a, b = (scores(i, seeds=5, cases=20, training=0.01, share=0.02) for i in range(2))
    found = contrast(run_of(a + 0.05, "a"), run_of(b, "b"))
    assert found["p"] < 0.01 and found["low"] < 0.05 < found["high"]


@pytest.mark.parametrize(("gap", "p"), [(0.0, 1.0), (1e-17, 1.0), (0.1, 0.0)])
def test_rounding_is_no_difference(gap: float, p: float) -> None:
    a = scores(0, seeds=1, cases=8, training=0, share=0.1)
    assert contrast(run_of(a + gap, "a"), run_of(a, "b"))["p"] == p


def test_under_six_cases_there_is_no_interval_and_no_p() -> None:
    a, b = (scores(i, seeds=3, cases=5, training=0, share=0.1) for i in range(2))
    found = contrast(run_of(a, "a"), run_of(b, "b"))
    assert found["difference"] == pytest.approx((a - b).mean())
    assert np.isnan([found["low"], found["high"], found["p"]]).all()


def test_the_bootstraps_variance_is_that_of_a_mean() -> None:
    for count in (2, 3, 10):
        values = np.random.default_rng(count).normal(0, 1, count)
        weights = resample(count, ("test",))
        means = weights @ values / weights.sum(axis=1)
        assert means.var() == pytest.approx(values.var(ddof=1) / count, rel=0.12)


def test_improvement_is_the_share_of_pairs_of_runs_that_win() -> None:
    a, b = pd.DataFrame([[0.5, 0.9], [0.7, 0.9]]), pd.DataFrame([[0.6, 0.9], [0.4, np.nan]])
    assert improvement(a, b, "higher") == pytest.approx(((1 + 1 + 1) / 4 + 0.5) / 2)
    assert improvement(a, b, "lower") == pytest.approx(1 - improvement(a, b, "higher"))
    assert np.isnan(improvement(a * np.nan, b, "higher"))


def test_holm_is_the_procedure_of_the_textbook() -> None:
    assert list(holm(pd.Series([0.01, 0.04, 0.03, 0.005]))) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = holm(pd.Series([0.01, np.nan, 0.03]))
    assert list(with_gap[[0, 2]]) == pytest.approx([0.02, 0.03])
    assert np.isnan(with_gap[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(values: list[float]) -> None:
    adjusted = holm(pd.Series(values))
    for level in (0.01, 0.05, 0.2):
        rejected, left = set(), sorted(range(len(values)), key=lambda i: values[i])
        while left and values[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {i for i in range(len(values)) if adjusted[i] <= level} == rejected


def test_pairs_are_aligned_by_case_and_families_corrected_apart(make_run: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    ordered = {s: {f"c{i}": d for i, d in enumerate(rng.uniform(0.2, 0.9, 7))} for s in "ab"}
    shuffled = {s: dict(reversed(by_case.items())) for s, by_case in ordered.items()}
    noisy = {s: {c: d + rng.normal(0.02, 0.01) for c, d in by_case.items()} for s, by_case in ordered.items()}
    runs = [make_run(shuffled, adapter="plain", seed=0), make_run(ordered, adapter="plain", seed=1),
            make_run(noisy, adapter="more", seed=0), make_run(noisy, adapter="more", seed=1)]  # fmt: skip
    tests = compare_pairs(group_methods([read_run(run, "test") for run in runs]))
    rows = tests.set_index(["measure", "structure"])
    assert set(rows.index) == {(measure, s) for measure in ("dice", "hd95_mm") for s in (ALL, "a", "b")}
    for structure in "ab":
        row = rows.loc[("dice", structure)]
        gap = np.array([noisy[structure][c] - ordered[structure][c] for c in ordered[structure]])
        assert (row["a"], row["b"]) == ("more, rank 4", "plain, rank 4")
        assert row["difference"] == pytest.approx(gap.mean())
        assert row["p"] == pytest.approx(stats.ttest_1samp(gap, 0).pvalue, rel=0.2)
    least = rows.loc["dice"].loc[["a", "b"], "p"].min()
    assert rows.loc["dice"].loc[["a", "b"], "p_holm"].min() == pytest.approx(2 * least)  # two structures
    assert rows.loc[("dice", ALL), "p_holm"] == rows.loc[("dice", ALL), "p"]  # a question of its own


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
