"""One command for a GPU: what it needs is told at once, a part that fails is told and ends no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from programs import run_script

from tcurlora_seg.benchmark import gpu_check
from tcurlora_seg.benchmark.gpu_check import CHECKS
from tcurlora_seg.benchmark.gpu_report import report, targets
from tcurlora_seg.errors import UserError

RATIOS = {"/ floor": 1.02, "/ peft_lora": 1.01, "/ full": 0.6}
STEP = {"step, s": 0.2, "GB / full": 0.5, "trainable": 2683170,
        **{name: {"median": r, "low": r - 0.01, "high": r + 0.01} for name, r in RATIOS.items()}}  # fmt: skip


def test_a_part_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(job: gpu_check.Job) -> None:
        job.run("broken", "-c", "print('so far'); raise ValueError('no device')")

    monkeypatch.setitem(CHECKS, "bf16", broken)
    monkeypatch.setitem(CHECKS, "tests", lambda job: {"one": {"result": job.run("one", "-c", "print(6 * 7)").strip()}})
    monkeypatch.setitem(CHECKS, "speed", lambda job: {}["a row"])
    arguments = ("device=cpu", "parts=[bf16,speed,tests,real]", f"output={tmp_path}")
    assert run_script("gpu_check", *arguments, monkeypatch=monkeypatch) == 1
    said = capsys.readouterr()
    assert "failed: bf16, speed" in said.err and "real: skipped: no real data" in said.out
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    assert "ValueError: no device" in result["parts"]["bf16"]["outcome"]
    assert result["parts"]["speed"]["outcome"].startswith("failed: KeyError: 'a row'")
    assert result["parts"]["tests"]["rows"] == {"one": {"result": "42"}}
    assert "so far" in (tmp_path / "logs/broken.txt").read_text()
    assert "There is no GPU" in (tmp_path / "gpu_check.md").read_text() or shutil.which("nvidia-smi")


@pytest.mark.parametrize(
    ("argument", "words"),
    [("parts=[fast]", "there is no 'fast'; choose from tests"), ("root=/nowhere", "no folder Task04_Hippocampus")],
)
def test_mistakes_are_told_before_anything_starts(
    argument: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("gpu_check", argument, monkeypatch=monkeypatch) == 1
    assert words in capsys.readouterr().err


def test_targets_are_compared_with_what_was_measured_and_the_rest_is_left_out() -> None:
    half = {f"{name}, bf16-mixed": STEP for name in ("tcurlora", "tcurlora_by_role")}
    whole = {f"{name}, 32-true": {**STEP, "GB / full": 0.6} for name in ("tcurlora", "tcurlora_by_role")}
    parts = {
        "bf16": {"outcome": "done", "seconds": 1.0, "rows": half},
        "float32": {"outcome": "done", "seconds": 1.0, "rows": whole},
        "loader": {"outcome": "done", "seconds": 1.0, "rows": {
            "0 workers": {"waiting for data": 0.5}, "2 workers": {"waiting for data": 0.01}}},
        "real": {"outcome": "skipped: no real data", "seconds": 0.0, "rows": {}},
    }  # fmt: skip
    found = targets(parts)
    assert [row["met"] for row in found.values()] == [True, False, True, True, True, False, True, False, True]
    assert list(found)[-1] == "2 workers: waiting for data"
    page = report({"machine": {"gpu": "H100"}, "targets": found, "parts": parts})
    assert "| tcurlora, 32-true: GB / full | <= 0.55 | 0.6 | **no** |" in page
    assert "1.020 (1.010 to 1.030)" in page and "2,683,170" in page and "There is no GPU" not in page


def test_a_command_that_fails_or_hangs_says_where_its_output_is(tmp_path: Path) -> None:
    job = gpu_check.Job("cpu", tmp_path, None, limit=5.0)
    with pytest.raises(UserError, match=r"exit code 3, .*/logs/quiet.txt"):
        job.run("quiet", "-c", "raise SystemExit(3)")
    with pytest.raises(UserError, match=r"slow took more than 5 s, see .*/logs/slow.txt"):
        job.run("slow", "-c", "import time; time.sleep(60)")


@pytest.mark.slow
def test_everything_runs_through_on_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("gpu_check", "device=cpu", f"output={tmp_path}", monkeypatch=monkeypatch) == 0
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    assert list(result["parts"]) == list(CHECKS)
    assert {name for name, part in result["parts"].items() if not part["rows"]} == {"real"}
    assert len(result["targets"]) == 12
