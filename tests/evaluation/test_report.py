from __future__ import annotations

import pandas as pd
import pytest

from tcurlora_seg.evaluation.report import print_summary
from tcurlora_seg.evaluation.statistics import COLUMNS, summarise


def printed(cases: int, capsys: pytest.CaptureFixture[str], **metrics: object) -> str:
    rows = pd.DataFrame([{**dict.fromkeys(COLUMNS, 1.0), "case": f"c{i:02}", "structure": "head", "status": "scored",
                          "dice": 0.5 + i / 100} for i in range(cases)])  # fmt: skip
    summary = {"dataset": "d", "task": "t", "adapter": "a", "simulated": None, "unusual": [], **summarise(rows)}
    cost = {"trainable_parameters": 1, "total_parameters": 2, "train_seconds": 1.0, "steps": 1, "step_seconds": 1.0,
            "peak_memory_bytes": 1, "file_bytes": 1, "not_predicted": [], **metrics}  # fmt: skip
    print_summary(rows, summary, cost)
    return capsys.readouterr().out


def test_twenty_cases_are_all_listed_and_of_more_the_worst_ten(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(f"c{i:02} " in printed(20, capsys) for i in range(20))
    many = printed(21, capsys)
    assert all((f"c{i:02} " in many) == (i < 10) for i in range(21))
    assert "the worst 10 of 21 rows" in many and "mean of 21" in many


def test_a_structure_that_was_not_predicted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not predicted" not in printed(2, capsys)
    assert "head: in the training labels, but not predicted" in printed(2, capsys, not_predicted=["head"])


def test_a_small_volume_is_no_zero(capsys: pytest.CaptureFixture[str]) -> None:
    row = {**dict.fromkeys(COLUMNS, 0.000375), "case": "[c]/[/c]", "structure": "dot", "status": "scored"}
    rows = pd.DataFrame([row])
    named = {"dataset": "d", "task": "t", "adapter": "a", "simulated": None, "unusual": []}
    print_summary(rows, {**named, **summarise(rows)})
    out = capsys.readouterr().out
    assert "[c]/[/c]" in out  # brackets are no markup
    assert out.count("0.000375") == 4  # of the case and of the mean, both volumes
