from __future__ import annotations

import pytest

from tcurlora_seg.data.check_report import CheckReport, print_report


def test_the_table_groups_what_is_left_out_for_one_reason(capsys: pytest.CaptureFixture) -> None:
    left_out = {f"P{n}": f"top/P{n} has no label" for n in range(9)} | {"Q": "top/Q/2007/01/Q.nii is damaged"}
    skipped = {f"top/{n}.nii": "a follow-up" for n in range(4)}
    report = CheckReport("x", "y", "/data", "", left_out=left_out, skipped=skipped)
    print_report(report, simulated=False)
    shown = capsys.readouterr().out
    assert "/data/top" in shown and "left out (10)" in shown and "P0 and 8 more" in shown and "P1" not in shown
    assert "0.nii and 3 more: a follow-up" in shown and "Q/…/Q.nii is damaged" in shown
    report.skipped["/elsewhere/5.nii"] = "a follow-up"  # outside of the root
    print_report(report, simulated=False)
    assert "top/0.nii and 4 more" in capsys.readouterr().out


def test_brackets_in_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = {"a": "images/a[left].nii.gz has no label", "b": "[/b] is unreadable"}
    report = CheckReport("folder", "t", "/data", "", left_out=left_out, skipped={"x[old].gz": "no image"})
    print_report(report, simulated=False)
    shown = capsys.readouterr().out
    assert "a[left].nii.gz has no label" in shown and "[/b] is unreadable" in shown and "x[old].gz: no image" in shown
