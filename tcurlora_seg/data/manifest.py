"""Manifest: the list of a cohort's cases and splits in one JSON file, checked on reading.

data_manifests/README.md has its schema. It is read while a configuration is checked, so nothing heavy is imported here.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json, write_json

FORMAT = 1
WRITTEN = Path("outputs/manifests")
"""The manifests of the data roots that were prepared from this working folder."""
SIMULATED = "SIMULATED.txt"
"""The file that marks a folder as a simulated cohort."""


@dataclass(frozen=True)
class Case:
    """One image with its label. Paths are relative to the root, with forward slashes.

    Attributes:
        id: unique in the cohort; names the files of its results.
        patient: what a split must keep together.
        images: modality -> path.
        label: path; part -> path where the label is several files (one a side); None where a case has none.
        mask: brain mask of an image that still has its skull, or None.
    """

    id: str
    patient: str
    images: Mapping[str, str]
    label: str | Mapping[str, str] | None
    mask: str | None = None

    @property
    def label_paths(self) -> list[str]:
        return [self.label] if isinstance(self.label, str) else list((self.label or {}).values())

    @property
    def paths(self) -> list[str]:
        return [*self.images.values(), *self.label_paths, *([self.mask] if self.mask else [])]


@dataclass(frozen=True)
class Split:
    """Split: case ids to train on, to choose by and to score."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def sides(self) -> dict[str, tuple[str, ...]]:
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True)
class Manifest:
    """Cases and splits of a cohort.

    Attributes:
        dataset: name of the data set.
        cases: in the order of their ids.
        splits: lists that were fixed once, by name; draws by seed need none. They may name excluded cases, which are
            passed over when a split is taken.
        excluded: case id -> why it was left out.
        by_check: those of `excluded` that a check left out; they come back once their files are mended.
        simulated: None for real images, otherwise how the cohort was made.
    """

    dataset: str
    cases: tuple[Case, ...]
    splits: Mapping[str, Split] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    by_check: tuple[str, ...] = ()
    simulated: Mapping[str, Any] | None = None

    def case(self, id: str) -> Case:
        """The case of that id; KeyError if there is none."""
        return self._by_id[id]

    def without(self, reasons: Mapping[str, str]) -> Manifest:
        """The same cohort with these cases left out; ids that it does not have are ignored."""
        gone = {case.id: reasons[case.id] for case in self.cases if case.id in reasons}
        kept = tuple(case for case in self.cases if case.id not in gone)
        return replace(self, cases=kept, excluded={**self.excluded, **gone})

    @property
    def excluded_by_hand(self) -> dict[str, str]:
        """Cases that a person has left out, and why."""
        return {id: why for id, why in self.excluded.items() if id not in self.by_check}

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}


def manifest_folder(dataset: str, root: Path) -> Path:
    """Folder where `prepare_data.py` writes the manifest of a data root unless told otherwise.

    It lies below the working folder, so that it steers nobody else's runs on shared data. A simulated cohort keeps its
    own in its root.
    """
    if (root / SIMULATED).is_file():
        return root
    digest = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:8]
    return WRITTEN / f"{dataset}_{root.absolute().name}_{digest}"


def manifest_path(dataset: str, root: Path) -> Path | None:
    """Manifest of a data root: of this working folder, or in the root; None where there is none."""
    places = (manifest_folder(dataset, root) / "manifest.json", root / "manifest.json")
    return next((path for path in places if path.is_file()), None)


def read_manifest(path: str | Path, root: str | Path, *, outside: bool = False, dataset: str | None = None) -> Manifest:
    """A manifest, checked together with its files.

    Args:
        path: of the manifest.
        root: of the files.
        outside: whether they may lie outside the root.
        dataset: whose manifest it must be; None for any.

    Raises:
        UserError: not a manifest, or one of another data set; a duplicate id, or one that cannot name files; a path
            outside the root; a file that is not there; a split with an unknown case or with a patient on two sides.
    """
    manifest = load_manifest(path, dataset)
    check(manifest, path, root=root, outside=outside)
    for case in manifest.cases:
        for file in case.paths:
            if not (Path(root) / file).exists():
                raise UserError(
                    f"{path}: {file} of case {case.id} is not under {root}; if the files have moved, set dataset.root "
                    "or write the manifest again with scripts/prepare_data.py"
                )
    return manifest


def load_manifest(path: str | Path, dataset: str | None = None) -> Manifest:
    """A manifest whose content is not checked.

    Args:
        path: of the manifest.
        dataset: whose manifest it must be; None for any.

    Raises:
        UserError: not a manifest, or one of another data set.
    """
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise UserError(f"{path} is not a manifest of format {FORMAT} (data_manifests/README.md describes it)")
    try:
        manifest = Manifest(
            dataset=str(raw["dataset"]),
            cases=tuple(map(_case, raw["cases"])),
            splits={
                name: Split(*(tuple(map(_text, sides[side])) for side in ("train", "val", "test")))
                for name, sides in raw.get("splits", {}).items()
            },
            excluded={id: _text(why) for id, why in raw.get("excluded", {}).items()},
            by_check=tuple(map(_text, raw.get("by_check", ()))),
            simulated=raw.get("simulated"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: a field is missing or of the wrong kind ({type(error).__name__}: {error}); "
            "data_manifests/README.md describes them"
        ) from error
    if dataset not in (None, manifest.dataset):
        raise UserError(f"{path} is a manifest of {manifest.dataset}, not of {dataset}")
    return manifest


def _case(raw: Any) -> Case:
    label, mask = raw.get("label"), raw.get("mask")
    if isinstance(label, dict):
        label = {part: _text(path) for part, path in label.items()}
    elif label is not None:
        label = _text(label)
    images = {modality: _text(path) for modality, path in raw["images"].items()}
    return Case(_text(raw["id"]), _text(raw["patient"]), images, label, None if mask is None else _text(mask))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} where a text is expected")
    return value


def write_manifest(manifest: Manifest, path: str | Path, *, outside: bool = False) -> None:
    """Write a manifest as JSON, after a check.

    Args:
        manifest: to write.
        path: of the file.
        outside: whether its paths may leave the root.

    Raises:
        UserError: as `check`, or the file cannot be written.
    """
    check(manifest, path, outside=outside)
    write_json(path, {"format": FORMAT, **asdict(manifest)})


def check(manifest: Manifest, name: str | Path, *, root: str | Path | None = None, outside: bool = False) -> None:
    """Check of a manifest without opening a file.

    Args:
        manifest: to check.
        name: of the manifest in messages.
        root: of the files, to see that no link leads out of it; None does not look at them.
        outside: whether paths may lead out of the root.

    Raises:
        UserError: as `read_manifest`.
    """
    twice = [id for id, n in Counter(case.id for case in manifest.cases).items() if n > 1]
    if twice:
        raise UserError(f"{name}: the case {twice[0]} is listed twice; give every case an id of its own")
    place = os.path.realpath(root) if root else None  # unlike Path.resolve it is at ease with links in a circle
    for case in manifest.cases:
        if not case.id or case.id.startswith(".") or {*"/\\\0"} & {*case.id}:
            raise UserError(f"{name}: the case id {case.id!r} is no name for a file: label maps are written under it")
        for path in () if outside else case.paths:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or {*"\\\0"} & {*path}:
                raise UserError(
                    f"{name}: the path {path} of case {case.id} leaves the root; paths are relative to it, unless "
                    "dataset.outside_root=true allows others"
                )
            if place and not (target := Path(os.path.realpath(os.path.join(place, path)))).is_relative_to(place):
                raise UserError(
                    f"{name}: {path} of case {case.id} is a link to {target}, which is not under {root}: if you trust "
                    "the links there, dataset.outside_root=true follows them"
                )
    for split_name, split in manifest.splits.items():
        check_split(split, manifest.cases, f"{name}, split '{split_name}'", passed_over=manifest.excluded)


def check_split(split: Split, cases: Iterable[Case], name: str | Path, *, passed_over: Collection[str] = ()) -> None:
    """Check that a split names known cases and keeps every patient on one side.

    Args:
        split: to check.
        cases: of the cohort.
        name: of the split in messages.
        passed_over: ids that it may name besides.

    Raises:
        UserError: it does not.
    """
    patients = {case.id: case.patient for case in cases}
    where: dict[str, str] = {}
    for side, ids in split.sides.items():
        for id in ids:
            if id in passed_over and id not in patients:
                continue
            if id not in patients:
                raise UserError(f"{name}: there is no case {id} (listed under {side})")
            if where.setdefault(patients[id], side) != side:
                raise UserError(
                    f"{name}: patient {patients[id]} is both in {where[patients[id]]} and in {side}; "
                    "scores on seen patients mean nothing, so a patient belongs on one side"
                )
