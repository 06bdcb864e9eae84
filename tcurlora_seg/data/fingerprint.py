"""Fingerprints of the files that a case is read from: has anything changed?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

from tcurlora_seg.data.formats import ending, voxels_of
from tcurlora_seg.data.manifest import Case

Fingerprint = list[list[str | int]]


def fingerprint(case: Case, root: Path) -> Fingerprint:
    """[path, bytes, time of the last change in ns] of every file of a case; 0 bytes at 0 ns for one that is not there.

    An Analyze pair is named by its header, but it is mostly the voxels that change: both are listed. So are the files
    of a DICOM series, which is named by its folder.
    """
    return [[path, *_state(root / path)] for path in files_of(case, root)]


def files_of(case: Case, root: Path) -> Iterator[str]:
    """Paths of all files of a case: those of an Analyze pair and of a DICOM series, too."""
    for path in case.paths:
        yield path
        voxels = voxels_of(root / path) if ending(path) == ".hdr" else None
        if voxels:
            yield PurePosixPath(path).with_name(voxels.name).as_posix()
        elif (root / path).is_dir():
            yield from sorted(f"{path}/{file.name}" for file in (root / path).iterdir())


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def contents(cases: Iterable[Case], root: Path) -> dict[str, list[int | str]]:
    """{path: [bytes, time of the last change in ns, digest]} of all files of some cases."""
    states = {path: _state(root / path) for case in cases for path in files_of(case, root)}
    return {path: [*state, _digest(root / path, *state)] for path, state in states.items()}


def changed(noted: Mapping[str, list[int | str]], root: Path) -> list[str]:
    """Paths of files that are gone, or hold something else than `contents` noted.

    A file of the same size and time is not read again; one that was copied or touched is.

    Args:
        noted: by `contents`.
        root: of the data set.
    """
    found = []
    for path, (size, time, digest) in noted.items():
        state = _state(root / path)
        if state != (size, time) and (state[0] != size or _digest(root / path, *state) != digest):
            found.append(path)
    return found


@lru_cache(maxsize=100_000)
def _digest(path: Path, size: int, time: int) -> str:
    """Of a file's bytes; its size and time are named so that a changed file is read again."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
