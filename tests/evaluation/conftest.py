"""Finished runs of the tiny network to evaluate, predict with and export."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import TINY, run_script

from tcurlora_seg.data.simulate import simulate


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lpba40")
    simulate("lpba40", root, subjects=7, seed=0, spacing=6.0)
    return root


@pytest.fixture(scope="session")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that tell left from right, of two seeds; after two steps they find all three classes everywhere."""
    outputs = tmp_path_factory.mktemp("outputs")
    folders = [outputs / "first", outputs / "second"]
    with pytest.MonkeyPatch.context() as patch:
        for folder, extra in zip(folders, (["seed=0"], ["seed=1", "test=null"]), strict=True):
            code = run_script("train", *TINY, f"dataset.root={cohort}", "dataset.task=hippocampus_lr", "adapter.rank=2",
                              *extra, f"outputs={outputs}", f"output={folder}", monkeypatch=patch)  # fmt: skip
            assert code == 0
    return folders


@pytest.fixture(scope="session")
def run(trained: list[Path]) -> Path:
    return trained[0]
