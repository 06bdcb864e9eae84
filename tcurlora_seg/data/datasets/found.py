"""Result of a look through a data set's folder: the cases, and why everything else is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tcurlora_seg.data.manifest import Case, Split


@dataclass(frozen=True)
class Found:
    """The files under a root, sorted out by their names and places alone; none was opened.

    Attributes:
        cases: those whose files are all there, in the order of their ids.
        left_out: case id -> why it cannot be used; names the file.
        skipped: path relative to the root -> why that file belongs to no case.
        splits: lists that came with the files, by name.
    """

    cases: tuple[Case, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)
