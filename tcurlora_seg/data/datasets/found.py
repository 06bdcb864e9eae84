"""What a look through a data set's folder gives: the cases, and why everything else is none."""

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

    def without(self, reasons: Mapping[str, str]) -> Found:
        """The same with these cases left out too, from the splits as well; ids that were not found are ignored."""
        kept = tuple(case for case in self.cases if case.id not in reasons)
        gone = {case.id: reasons[case.id] for case in self.cases if case.id in reasons}
        ids = {case.id for case in kept}
        splits = {
            name: Split(*(tuple(id for id in side if id in ids) for side in split.sides.values()))
            for name, split in self.splits.items()
        }
        return Found(kept, {**self.left_out, **gone}, self.skipped, splits)
