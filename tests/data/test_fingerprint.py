"""Files that hold something else than they did are found, and no others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tcurlora_seg.data.fingerprint import changed, contents, fingerprint
from tcurlora_seg.data.manifest import Case


@pytest.mark.parametrize("names", [("a.hdr", "a.img.gz"), ("a.hdr", "a.IMG"), ("A.HDR", "A.img")])
def test_the_voxels_of_a_pair_count_whatever_their_ending(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    case = Case("a", "a", {"t1": names[0]}, None)
    assert [path for path, *_ in fingerprint(case, tmp_path)] == list(names)
    away = Case("a", "a", {"t1": str(tmp_path / names[0])}, None)  # as dataset.outside_root=true allows it
    assert [path for path, *_ in fingerprint(away, tmp_path / "root")] == [str(tmp_path / name) for name in names]


def test_other_contents_are_found_and_a_copy_is_none(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "labels").mkdir(parents=True)
    for name in ("a.hdr", "a.img", "labels/a.nii"):
        (root / name).write_bytes(b"voxels")
    noted = contents([Case("a", "a", {"t1": "a.hdr"}, "labels/a.nii")], root)
    assert list(noted) == ["a.hdr", "a.img", "labels/a.nii"] and changed(noted, root) == []
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    os.utime(copy / "a.img", (1, 1))
    assert changed(noted, copy) == []
    (copy / "labels/a.nii").write_bytes(b"vaxels")  # of the same size
    (copy / "a.img").unlink()
    assert changed(noted, copy) == ["a.img", "labels/a.nii"]
