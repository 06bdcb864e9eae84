"""Grouping: only seed and fold are averaged over, names are unambiguous, and only equal cases are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcurlora_seg.compare.collect import read_run
from tcurlora_seg.compare.methods import ALL, Method, differing_settings, group_methods
from tcurlora_seg.errors import UserError


@pytest.fixture
def group(make_run: Callable[..., Path]) -> Callable[..., list[Method]]:
    """A function that writes runs, given as (scores, options), and groups them."""

    def make(*runs: tuple[Any, dict[str, Any]], **options: str) -> list[Method]:
        return group_methods([read_run(make_run(scores, **o), "test") for scores, o in runs], **options)

    return make


def test_seeds_are_averaged_case_by_case(group: Callable[..., list[Method]]) -> None:
    (method,) = group(([0.6, 0.9], {"seed": 0}), ([0.8, 0.5], {"seed": 1}))
    assert list(method.scores["dice"]) == pytest.approx([0.7, 0.7])
    assert method.repeats == len(method.runs) == 2


def test_folds_of_one_seed_together_make_its_cases(group: Callable[..., list[Method]]) -> None:
    (method,) = group(({"a": {"x": 0.6}}, {"split__fold": 0}), ({"a": {"y": 0.8}}, {"split__fold": 1}))
    assert method.scores["dice"].to_dict() == {("x", "a"): 0.6, ("y", "a"): 0.8}
    assert (method.repeats, len(method.runs)) == (1, 2)


def test_a_distance_is_averaged_over_the_seeds_that_found_the_structure(group: Callable[..., list[Method]]) -> None:
    (method,) = group(([0.0], {"seed": 0}), ([0.8], {"seed": 1}))
    assert method.scores["dice"].item() == pytest.approx(0.4)
    assert method.scores["hd95_mm"].item() == pytest.approx(2.0)


def test_methods_are_named_by_adapter_rank_and_what_else_parts_them(group: Callable[..., list[Method]]) -> None:
    methods = group(
        ([0.8], {"rank": 2}), ([0.8], {"rank": 4, "split__shots": 1}), ([0.8], {"rank": 4, "split__shots": 5}),
        ([0.8], {"adapter": "full", "rank": None, "optimizer__lr": 0.1, "logger__name": "x", "sweep": "s"}),
    )  # fmt: skip
    assert [m.label for m in methods] == ["full", "lora, rank 2", "lora, rank 4, shots 1", "lora, rank 4, shots 5"]
    assert differing_settings(methods) == {
        "optimizer.lr": ["0.1", "0.001", "0.001", "0.001"], "split.shots": ["5", "5", "1", "5"]
    }  # fmt: skip


def test_where_a_run_lies_and_its_random_base_make_no_other_method(group: Callable[..., list[Method]]) -> None:
    base = {"pretrained": "out/bases/0.safetensors", "dataset__root": "a", "logger": {"name": "x"}}
    other = {"pretrained": "x/bases/1.safetensors", "dataset__root": "b", "logger": {}, "data__cache_dir": "c",
             "trainer__accelerator": "cpu", "trust": ["mine"], "training__save_every": 2}  # fmt: skip
    assert len(group(([0.8], {"seed": 0, **base}), ([0.8], {"seed": 1, **other}))) == 1
    assert len(group(([0.8], {"seed": 0}), ([0.8], {"seed": 1, "pretrained": "mine.pt"}))) == 2


def test_methods_are_ordered_by_what_they_train(group: Callable[..., list[Method]]) -> None:
    methods = group(([0.8], {"adapter": "b", "trainable": 5}), ([0.8], {"adapter": "a", "trainable": 10}))
    assert [m.name for m in methods] == ["b", "a"]


def test_the_mean_over_structures_is_a_cases_own_and_leaves_absent_ones_out(group: Callable[..., list[Method]]) -> None:
    (method,) = group(({"a": {"x": 0.6, "y": 0.8}, "b": {"x": 0.2, "y": None}}, {}))
    assert method.scores["dice"].xs(ALL, level="structure").to_dict() == pytest.approx({"x": 0.4, "y": 0.8})
    assert method.scores["volume_ml"].xs(ALL, level="structure").isna().all()


@pytest.mark.parametrize(
    ("scores", "options", "expected"),
    [
        ([0.8, 0.9], {"adapter": "full", "dataset": "brats2021"}, r"differ in dataset: lpba40 \(.*and brats2021"),
        ([0.8, 0.9], {"adapter": "full", "task": "structures"}, r"differ in task: hippocampus .* and structures"),
        ([0.8, 0.9], {"adapter": "full", "label_map": {"1": [2]}}, r"differ in label_map: .*'1': \[2\]"),
        ([0.8], {"adapter": "full"}, r"test cases differ: only one of .*full.*scored on c1; .*cases=common"),
        ([0.8], {"seed": 1}, r"test cases differ: .*seed 0, draw 0.*seed 1, draw 0 was scored on c1"),
        ({"b": {"c0": 0.8, "c1": 0.9}}, {"adapter": "full"}, r"differ in their structures"),
        ([0.8, 0.9], {"adapter": "full", "reference": 9.0}, r"references differ: a of case c0 has 8\.000 ml .* 9\.000"),
        ([0.8, 0.9], {"seed": 1, "reference": 9.0}, r"references differ"),
        ([0.8, 0.9], {"split__leave_out": 1}, r"with seed 0, draw 0 was scored on case c0 by several runs"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    group: Callable[..., list[Method]], scores: Any, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        group(([0.8, 0.9], {}), (scores, options))


def test_common_cases_are_those_of_every_method_and_seed(group: Callable[..., list[Method]]) -> None:
    runs = ([0.8, 0.9, 0.7], {}), ([0.6, 0.5], {"adapter": "full"})
    methods = group(*runs, cases="common")
    assert all(list(m.scores.index.unique("case")) == ["c0", "c1"] for m in methods)
    with pytest.raises(UserError, match="no case that every run was scored on"):
        group(({"a": {"x": 0.6}}, {}), ({"a": {"y": 0.6}}, {"seed": 1}), cases="common")
    with pytest.raises(UserError, match="cases=some: choose all or common"):
        group(*runs, cases="some")


def test_lists_of_equal_length_and_values_planned_from_their_cases_are_draws_of_one_method(
    group: Callable[..., list[Method]],
) -> None:
    runs = [
        ([0.8, 0.9], {"split__scheme": name, "training__class_weights": [1.0, weight],
                      "planned": {"training.class_weights": [1.0, weight]}})
        for name, weight in (("draw0", 9.7), ("draw1", 9.1))
    ]  # fmt: skip
    (method,) = group(*runs)
    assert (method.draws, method.repeats) == (2, 2)
    assert len(group(*runs, ([0.8, 0.9], {"split__scheme": "draw0_10", "training": 10}))) == 2
