"""Provenance of the data: a run notes what its files held, and does not pass over a change."""

from __future__ import annotations

from pathlib import Path

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.fingerprint import changed, contents
from tcurlora_seg.data.manifest import Split
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json, write_json

NOTE = "data.json"


def note_data(directory: Path, dataset: SegmentationDataset, split: Split) -> None:
    """Note the contents of every file of the run's cases, once; say which cases on disk take no part."""
    path = directory / NOTE
    if not path.exists():
        ids = [id for side in split.sides.values() for id in side]
        write_json(path, contents(map(dataset.manifest().case, ids), dataset.root))
    unlisted = dataset.unlisted()
    if unlisted:
        shown = ", ".join(unlisted[:3]) + (", ..." if len(unlisted) > 3 else "")
        print(f"{len(unlisted)} case(s) in {dataset.root} are not in the manifest and take no part: {shown}; "
              "scripts/prepare_data.py adds them")  # fmt: skip


def check_data(directory: Path, dataset: SegmentationDataset) -> None:
    """Check that a run's files still hold what they held when it began.

    Raises:
        UserError: one does not: the run's weights and scores belong to other data.
    """
    path = directory / NOTE
    if not path.exists():
        return
    found = changed(read_json(path), dataset.root)
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(
            f"{dataset.root / found[0]}{more} changed since {directory} began: put back what it was, or start a new "
            "run (in a sweep by sweep=NAME)"
        )
