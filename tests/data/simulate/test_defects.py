from __future__ import annotations

from pathlib import Path

from defects import defects_of, simulate_with_defects

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import read_manifest
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepare import check_folder


def test_every_planted_defect_is_found_and_named_and_the_rest_is_usable(
    cohort: SegmentationDataset, tmp_path: Path
) -> None:
    planted, left_out, survived = simulate_with_defects(cohort.name, tmp_path, subjects=2, spacing=4.0)
    assert len(left_out) + len(survived) == len(defects_of(cohort.name))
    assert read_manifest(tmp_path / "manifest.json", tmp_path) == planted  # the survivors' files are there
    assert len(planted.cases) == 2 + len(survived)
    for case in cohort.manifest().cases[:2]:  # the cohort's own subjects are as they were
        assert case in planted.cases
        assert all((tmp_path / path).read_bytes() == (cohort.root / path).read_bytes() for path in case.paths)

    _, checked = check_folder(type(cohort)(root=str(tmp_path), preparation=Preparation()), tmp_path)
    assert checked.cases == planted.cases
    assert len(checked.excluded) == len(left_out)
    for path, what in left_out.items():
        named = [id for id, reason in checked.excluded.items() if path in reason or id in path]
        assert len(named) == 1, f"{path}: {what}: {checked.excluded}"
