"""A data root: the cases under one folder, their manifest and its splits. No volume is read here."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.known_defects import known_defects
from tcurlora_seg.data.manifest import SIMULATED, Case, Manifest, Split, check, manifest_path, read_manifest
from tcurlora_seg.data.split import draw_split
from tcurlora_seg.errors import UserError

log = logging.getLogger(__name__)


class DataRoot(ABC):
    """The cases of a data set under one folder.

    Nothing heavy is imported, so `check_root` and `split` can be asked while a configuration is checked.

    Attributes:
        name: as in `dataset=`.
        source: one line on where the real data come from and on what terms.
        layout: what is looked for under the root, for messages.
        paper_split: sizes of train and val of the paper's split, see `draw_split`; None for data that it does not have.
        own_split: the name of the lists that may come with the files; None where none do.
        shares_patients_with: the data set that has some of these patients too, see `leakage`; None for none.
        crosswalk: the file that says which, if the user gave it.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    layout: str
    paper_split: ClassVar[tuple[float, float] | None] = None
    own_split: ClassVar[str | None] = None
    shares_patients_with: ClassVar[str | None] = None
    crosswalk: str | None = None

    def __init__(self, *, root: str, manifest: str | None, outside_root: bool) -> None:
        """A root whose cases are looked for when they are first asked for.

        Args:
            root: the folder.
            manifest: its file; None for manifest.json in the root, or for what lies there.
            outside_root: whether links and absolute paths may lead out of the root.
        """
        self.root = Path(root).expanduser()
        self.manifest_path = str(Path(manifest).expanduser()) if manifest else None
        self.outside_root = outside_root
        self._manifest: Manifest | None = None

    @property
    def cohort(self) -> str:
        """Origin of these images, noted by a network that was trained on them; see `leakage`."""
        return self.name

    @abstractmethod
    def find_cases(self) -> Found:
        """The cases under the root, by the data set's on-disk layout; empty if there are none.

        A case with a file missing is left out; files that belong to no case are skipped.

        Raises:
            UserError: a layout that cannot be used.
        """

    def check_root(self) -> None:
        """Check that the root is there and holds something.

        Raises:
            UserError: it does not; the text says where the data come from and how to simulate a cohort.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"dataset.root={self.root} is a file; expected the folder that holds {self.layout}")
        try:
            empty = not self.root.is_dir() or not any(self.root.iterdir())
        except OSError as error:
            raise UserError(
                f"dataset.root={self.root.absolute()} cannot be read: {error.strerror}; ask for permission to it"
            ) from error
        if empty:
            state = "is empty" if self.root.is_dir() else "does not exist"
            raise UserError(f"{self.name}: dataset.root={self.root.absolute()} {state}. {self._advice()}")

    def manifest(self) -> Manifest:
        """Manifest of the cohort: from `dataset.manifest`, else from `manifest_path`, or else of the files on disk.

        Raises:
            UserError: as `check_root`, `find_cases` and `read_manifest`.
        """
        if self._manifest is None:
            self.check_root()
            path = self._manifest_file()
            if path is not None:
                found = read_manifest(path, self.root, outside=self.outside_root, dataset=self.name)
                self._check_agreement(found, path)
            else:
                found = self._found_manifest()
            self.adopt(found)
        assert self._manifest is not None
        return self._manifest

    def _manifest_file(self) -> Path | None:
        return Path(self.manifest_path) if self.manifest_path else manifest_path(self.name, self.root)

    def _found_manifest(self) -> Manifest:
        found = self.find_cases()
        manifest = Manifest(self.name, found.cases, found.splits, found.left_out)
        manifest = manifest.without(known_defects(self.name, found.cases))
        if manifest.cases and manifest.excluded:
            id, reason = next(iter(manifest.excluded.items()))
            log.warning("%s: %d case(s) left out, the first %s: %s", self.name, len(manifest.excluded), id, reason)
        self.check(manifest)
        return manifest

    def _check_agreement(self, manifest: Manifest, path: Path) -> None:
        """Check that a manifest which nobody named has the files that the arguments choose now.

        Raises:
            UserError: it was made with other arguments.
        """
        if self.manifest_path or manifest.simulated:
            return
        there = {case.id: case for case in self._on_disk}
        for case in manifest.cases:
            now = there.get(case.id, case)
            pairs = [(case.images[key], now.images[key]) for key in case.images if key in now.images]
            pairs += list(zip(case.label_paths, now.label_paths, strict=False))
            other = next((pair for pair in pairs if pair[0] != pair[1]), None)
            if other:
                raise UserError(
                    f"{path} was made with other arguments: case {case.id} has {other[0]} there, and {other[1]} by "
                    f"those of now: run scripts/prepare_data.py again, or give dataset.manifest={path} to keep it"
                )

    @cached_property
    def _on_disk(self) -> tuple[Case, ...]:
        try:
            return self.find_cases().cases
        except UserError:  # a manifest may list files in another layout
            return ()

    def left_aside(self) -> list[str]:
        """Lines on cases that take no part since the manifest does not list them, or since a check left them out."""
        path, manifest = self._manifest_file(), self.manifest()
        if path is None:  # told when they were found
            return []
        known = {*(case.id for case in manifest.cases), *manifest.excluded}
        unlisted = [case.id for case in self._on_disk if case.id not in known]
        lines = []
        if unlisted:
            shown = ", ".join(unlisted[:3]) + (", ..." if len(unlisted) > 3 else "")
            lines.append(f"{len(unlisted)} case(s) in {self.root} are not in the manifest and take no part: {shown}; "
                         "scripts/prepare_data.py adds them")  # fmt: skip
        if manifest.by_check:
            id, count = manifest.by_check[0], len(manifest.by_check)
            lines.append(f"{count} case(s) are left out by the check that wrote {path}, the first, {id}: "
                         f"{manifest.excluded.get(id, 'no reason')}; scripts/prepare_data.py looks again")  # fmt: skip
        return lines

    def check(self, manifest: Manifest) -> None:
        """Check a manifest of this root without opening a file; see `manifest.check`."""
        check(manifest, self.manifest_path or self.root, root=self.root, outside=self.outside_root)

    def adopt(self, manifest: Manifest) -> None:
        """Make this manifest the cohort under the root.

        Raises:
            UserError: it lists no case.
        """
        if not manifest.cases:
            place = self.root.absolute()
            if manifest.excluded:
                id, reason = next(iter(manifest.excluded.items()))
                unusable = f"none of {len(manifest.excluded)} case(s) under {place} can be used"
                raise UserError(f"{self.name}: {unusable}; the first, {id}: {reason}")
            raise UserError(f"{self.name}: nothing under dataset.root={place} like {self.layout}. {self._advice()}")
        if manifest.simulated is None and (self.root / SIMULATED).is_file():
            manifest = replace(manifest, simulated={"marker": SIMULATED})  # whatever became of its own manifest
        self._manifest = manifest

    def split(self, *, scheme: str | None = None, **options: Any) -> Split:
        """A division of this cohort into train, val and test.

        Lists that came with the files are not passed over in silence, nor that a draw leaves one case to train on.

        Args:
            scheme: as of `draw_split`; None takes the paper's proportions, or 80 % of data that it does not have.
            options: as of `draw_split`.

        Raises:
            UserError: as `manifest` and `draw_split`.
        """
        manifest = self.manifest()
        if scheme == self.own_split and scheme and scheme not in manifest.splits:
            raise UserError(f"split.scheme={scheme}: no list of validation or test cases came with the files; "
                            "choose holdout, kfold or shots")  # fmt: skip
        scheme = scheme or ("holdout" if self.paper_split is None else "paper")
        if scheme in ("paper", "holdout") and scheme not in manifest.splits and self.own_split in manifest.splits:
            log.warning(
                "%s: split.scheme=%s draws the test cases; split.scheme=%s takes the lists that came with the files",
                self.name, scheme, self.own_split,
            )  # fmt: skip
        split = draw_split(manifest, scheme=scheme, paper=self.paper_split, **options)
        if len(split.train) < 2 and scheme != "shots":
            log.warning(
                "%s: split.scheme=%s trains on one case alone and tests on %d; split.scheme=shots takes split.shots",
                self.name, scheme, len(split.test),
            )  # fmt: skip
        return split

    def _advice(self) -> str:
        """Where the data come from."""
        return (
            f"The real images: {self.source} A simulated cohort instead: "
            f"python scripts/prepare_data.py dataset={self.name} dataset.root=DIR simulate=12"
        )
