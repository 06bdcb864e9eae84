from __future__ import annotations

import json

import pytest
from programs import run_script

from tcurlora_seg.benchmark.contest import _Worker, quartiles, variations

SMALL = ("model=unetr_tiny", "rounds=3", "warmup=0", "inference_rounds=1", "json=true")
PAIR = "{floor: {volume: null}, tcurlora: {rank: 3}}"


def test_a_setting_is_varied_while_the_others_stay():
    points = list(variations({"side": 64, "batch": 1}, {"side": [64, 96], "batch": [2]}))
    assert points == [
        ({"side": 64}, {"side": 64, "batch": 1}), ({"side": 96}, {"side": 96, "batch": 1}),
        ({"batch": 2}, {"side": 64, "batch": 2}),
    ]  # fmt: skip
    assert list(variations({"side": 64}, {})) == [({}, {"side": 64})]


def test_the_spread_is_the_median_and_the_quartiles():
    assert quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert quartiles([2.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}


def test_a_benchmark_gives_ratios_paired_by_round_times_of_all_parts_and_a_plot(tmp_path, monkeypatch, capsys):
    code = run_script(
        "benchmark", *SMALL, "~contest.contestants", f"+contest.contestants={PAIR}", "+contest.vary.batch=[1]",
        "contest.common.side=32", "contest.common.volume=[32,32,40]", f"output={tmp_path}", monkeypatch=monkeypatch,
    )  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    assert code == 0 and result == json.loads((tmp_path / "benchmark.json").read_text())
    floor, ours = (result["points"][0]["contestants"][name] for name in ("floor", "tcurlora"))
    assert floor["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0} and floor["merged_seconds"] is None
    assert ours["ratio"]["median"] > 0 and ours["peak_bytes"] > 1e8 and ours["merged_seconds"]["median"] > 0
    assert all(ours[f"{part}_seconds"]["median"] > 0 for part in ("data", "forward", "backward", "optimiser"))
    assert ours["adapter_bytes"] < ours["file_bytes"] and ours["trainable"] - floor["trainable"] == 72 * 9
    assert (tmp_path / "costs.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("+contest.contestants.mine={method: lroa}", "mine has the method 'lroa': choose from"),
        ("contest.baseline=nobody", "nobody is none of the contestants"),
        ("rounds=0", "rounds=0: at least 1 is needed"),
        ("inference_rounds=0", "inference_rounds=0: at least 1 is needed"),
        ("threads=0", "threads=0: at least 1 is needed"),
        ("+contest.vary.rank=[]", "contest.vary.rank=[]: values are needed"),
        ("contest.common.precision=16-mixed", "has precision=16-mixed: choose 32-true or bf16-mixed"),
    ],
)
def test_mistakes_are_told_before_anything_starts(argument, words, monkeypatch, capsys):
    assert run_script("benchmark", argument, monkeypatch=monkeypatch) == 1
    assert words in capsys.readouterr().err


def test_a_contestant_that_the_system_kills_is_named(monkeypatch, capsys):
    start = _Worker.start

    def killed(worker):
        start(worker)
        worker.process.kill()
        worker.process.wait()

    monkeypatch.setattr(_Worker, "start", killed)
    given = (*SMALL, "~contest.contestants", f"+contest.contestants={PAIR}", "contest.common.side=32")
    assert run_script("benchmark", *given, monkeypatch=monkeypatch) == 1
    assert "contestant floor stopped at 'step': it ran out of memory" in " ".join(capsys.readouterr().err.split())
