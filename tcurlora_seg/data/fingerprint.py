"""Has anything changed that a case is read from?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tcurlora_seg.data.manifest import Case

Fingerprint = list[list[str | int]]


def fingerprint(case: Case, root: Path) -> Fingerprint:
    """[path, bytes, time of the last change in ns] of every file of a case; 0 bytes at 0 ns for one that is not there.

    An Analyze pair is named by its header, but it is mostly the voxels that change: both are listed. So are the files
    of a DICOM series, which is named by its folder.
    """
    return [[path, *_state(root / path)] for path in _files(case, root)]


def _files(case: Case, root: Path) -> Iterator[str]:
    for path in case.paths:
        yield path
        if path.endswith(".hdr"):
            pair = (path.removesuffix(".hdr") + ending for ending in (".img", ".img.gz"))
            yield from (voxels for voxels in pair if (root / voxels).is_file())
        elif (root / path).is_dir():
            yield from sorted(f"{path}/{file.name}" for file in (root / path).iterdir())


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
