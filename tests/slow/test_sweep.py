"""A sweep that was killed in the middle goes on with the same command and ends with the same table."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest
from programs import TINY, finish_script, run_script, start_script

from tcurlora_seg.data.simulate import simulate

pytestmark = pytest.mark.slow


def test_an_interrupted_sweep_ends_with_the_table_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate("lpba40", tmp_path / "data", subjects=8, seed=0, spacing=8.0)

    def sweep(name: str) -> tuple[str, ...]:
        return ("-m", *TINY, f"dataset.root={tmp_path / 'data'}", f"outputs={tmp_path / name}",
                "adapter=tcurlora,lora", "adapter.rank=2", "seed=0,1", "trainer.max_steps=8",
                "data.steps_per_epoch=2")  # fmt: skip

    def table(name: str) -> pd.DataFrame:
        output = tmp_path / f"table_{name}"
        assert run_script("compare", f"runs={tmp_path / name}", f"output={output}", monkeypatch=monkeypatch) == 0
        found = pd.read_csv(output / "comparison.csv")
        measured = [c for c in found if any(word in c for word in ("second", "memory", "bytes", "MB", "GiB"))]
        return found.drop(columns=measured)

    log = tmp_path / "log"
    finish_script("train", log, *sweep("whole"))
    process = start_script("train", log, *sweep("cut"))
    finished: list[Path] = []
    while len(finished) < 2:  # the third job is at work
        time.sleep(0.05)
        assert process.is_alive(), log.read_text()
        finished = list((tmp_path / "cut").rglob("metrics.json"))
    time.sleep(0.5)
    process.kill()
    process.join()
    untouched = {path: path.stat().st_mtime_ns for path in finished}
    assert len(list((tmp_path / "cut").rglob("metrics.json"))) < 4
    finish_script("train", log, *sweep("cut"))
    assert all(path.stat().st_mtime_ns == changed for path, changed in untouched.items())
    pd.testing.assert_frame_equal(table("cut"), table("whole"))
