from __future__ import annotations

from pathlib import Path

import pytest

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import read_manifest
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepare import check_folder
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.data.simulate.cohorts import COHORTS
from tcurlora_seg.data.simulate.defects import defects_of


@pytest.mark.parametrize("name", COHORTS)
def test_every_planted_defect_is_found_and_named_and_the_rest_is_usable(
    name: str, tmp_path: Path, readers: dict[str, type[SegmentationDataset]]
) -> None:
    planted = simulate(name, tmp_path, subjects=2, seed=0, spacing=4.0, defects=True)
    defects = planted.simulated["defects"]
    assert sum(map(len, defects.values())) == len(defects_of(name))
    assert read_manifest(tmp_path / "manifest.json", tmp_path) == planted  # the survivors' files are there
    assert len(planted.cases) == 2 + len(defects["survived"])

    dataset = readers[name](root=str(tmp_path), preparation=Preparation())
    _, checked = check_folder(dataset, tmp_path)
    assert [case.id for case in checked.cases] == [case.id for case in planted.cases]
    assert checked.cases == planted.cases
    assert len(checked.excluded) == len(defects["left_out"])
    for path, what in defects["left_out"].items():
        named = [id for id, reason in checked.excluded.items() if path in reason or id in path]
        assert len(named) == 1, f"{path}: {what}: {checked.excluded}"


@pytest.mark.parametrize("name", COHORTS)
def test_defects_leave_the_cohorts_own_subjects_as_they_are(name: str, tmp_path: Path) -> None:
    plain = simulate(name, tmp_path / "plain", subjects=1, spacing=8.0)
    simulate(name, tmp_path / "spoilt", subjects=1, spacing=8.0, defects=True)
    for path in plain.cases[0].paths:
        assert (tmp_path / "plain" / path).read_bytes() == (tmp_path / "spoilt" / path).read_bytes()
