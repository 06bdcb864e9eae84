"""The reductions: missed structures are counted, absent ones left out, spreads say what they stand on."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tcurlora_seg.evaluation.statistics import COLUMNS, MEASURES, summarise


def rows(*values: tuple[str, str, float | None, float | None]) -> pd.DataFrame:
    records = [dict.fromkeys(COLUMNS) for _ in values]
    for i, (record, (structure, status, dice, hd95)) in enumerate(zip(records, values, strict=True)):
        record.update(case=f"c{i}", structure=structure, status=status, dice=dice, hd95_mm=hd95)
    return pd.DataFrame(records)


def test_a_missed_structure_lowers_dice_and_leaves_the_distance_alone() -> None:
    summary = summarise(rows(("a", "scored", 0.8, 2.0), ("a", "missed", 0.0, None)))
    assert summary["structures"]["a"]["dice"] == {"mean": 0.4, "std": pytest.approx(0.4 * 2**0.5), "n": 2, "missed": 1}
    assert summary["structures"]["a"]["hd95_mm"] == {"mean": 2.0, "std": None, "n": 1, "missed": 1}
    assert all(summary["structures"]["a"][measure]["missed"] == 1 for measure in MEASURES)


def test_an_absent_structure_is_counted_and_left_out() -> None:
    summary = summarise(rows(("a", "scored", 0.8, 2.0), ("a", "absent", None, None)))
    assert summary["structures"]["a"]["dice"]["n"] == 1
    assert summary["structures"]["a"]["status"] == {"scored": 1, "missed": 0, "false_alarm": 0, "absent": 1}


def test_structures_stand_in_the_order_of_the_task() -> None:
    assert list(summarise(rows(("right", "scored", 0.8, 2.0), ("left", "scored", 0.7, 2.0)))["structures"]) == [
        "right", "left",
    ]  # fmt: skip


def test_mean_dice_weighs_structures_equally_whatever_their_cases() -> None:
    summary = summarise(rows(("a", "scored", 0.5, 1.0), ("a", "scored", 0.7, 1.0), ("b", "scored", 1.0, 1.0)))
    assert summary["mean_dice"] == pytest.approx(0.8)
    assert summary["cases"] == 3


def test_a_summary_is_strict_json_even_when_nothing_was_scored() -> None:
    summary = summarise(rows(("a", "absent", None, None)))
    assert summary["mean_dice"] is None
    json.dumps(summary, allow_nan=False)


def test_the_policy_for_empty_masks_is_written_out_with_its_counts() -> None:
    given = rows(*((f"s{i}", status, 0.0, None) for i, status in enumerate(["scored", "missed", "missed", "absent"])))
    masks = summarise(given)["empty_masks"]
    assert {s: entry["count"] for s, entry in masks.items()} == {
        "scored": 1, "missed": 2, "false_alarm": 0, "absent": 1
    }  # fmt: skip
    assert "Dice 0" in masks["missed"]["policy"] and "left out" in masks["absent"]["policy"]
