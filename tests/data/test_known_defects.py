from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tcurlora_seg.data import known_defects as defects
from tcurlora_seg.data.datasets.lpba40 import LPBA40
from tcurlora_seg.data.known_defects import defect_list, known_defects
from tcurlora_seg.data.manifest import Case, load_manifest, write_manifest


def test_the_five_subjects_of_harp_are_known_under_both_of_their_names() -> None:
    names = set(defect_list()["eadc_adni"])
    assert names == {
        "002_S_0938", "007_S_1304", "016_S_4121", "029_S_4279", "136_S_0429",
        "sub8", "sub35", "sub65", "sub85", "sub134",
    }  # fmt: skip
    cases = [Case(id, id, {}, {"left": f"{id}_L.nii"}) for id in ("001_S_0001", "sub8")]
    (reason,) = known_defects("eadc_adni", cases).values()
    assert reason.startswith("sub8_L.nii: known defect") and not known_defects("lpba40", cases)


def test_a_known_defect_is_left_out_of_what_lies_on_disk_but_a_manifest_that_lists_it_is_obeyed(
    lpba40: Callable[..., LPBA40], lpba40_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defects, "defect_list", lambda: {"lpba40": {"S02": "mirrored"}})
    written = load_manifest(lpba40_root / "manifest.json")
    root = tmp_path / "root"
    root.mkdir()
    shutil.copytree(lpba40_root / "LPBA40", root / "LPBA40")
    found = lpba40(root=str(root)).manifest()
    assert list(found.excluded) == ["S02"] and found.excluded["S02"].endswith("label.hdr: mirrored")
    assert "S02" not in {case.id for case in found.cases}
    write_manifest(replace(written, cases=written.cases[:2]), tmp_path / "mine.json")
    mended = lpba40(root=str(root), manifest=str(tmp_path / "mine.json")).manifest()
    assert [case.id for case in mended.cases] == ["S01", "S02"]
