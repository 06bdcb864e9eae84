"""A user's own list of images and labels: two folders joined by name, MONAI's datalist in JSON, or a table in CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json

_VOLUME = re.compile(r"([^.].*?)\.(nii|nii\.gz|hdr|mnc)")
_SIDES = {"training": "train", "validation": "val", "test": "test", "testing": "test"}


@dataclass(frozen=True)
class Entry:
    """One case as listed; nothing says yet that its files are there.

    Attributes:
        images: modality -> path; a modality may be missing.
        label: path or None.
        id, patient: None where the list does not say.
        side: train, val or test, where the list says.
    """

    images: Mapping[str, str]
    label: str | None
    id: str | None = None
    patient: str | None = None
    side: str = "train"


def join_folders(
    root: Path, images: str, labels: str, suffixes: Mapping[str, str], label_suffix: str
) -> tuple[list[Entry], dict[str, str]]:
    """Join CASE<suffix of the modality> in one folder with CASE<label_suffix> in another, or in the same one.

    Returns:
        Entries by case, and why other volumes in the two folders are skipped.
    """
    places: dict[str, dict[str, str]] = {images: dict(suffixes)}
    places.setdefault(labels, {})[""] = label_suffix  # no modality: a label
    found: dict[str, dict[str, str]] = {}
    skipped = {}
    for folder, endings in places.items():
        for path in sorted((root / folder).glob("*")):
            match, name = _VOLUME.fullmatch(path.name), path.relative_to(root).as_posix()
            if match is None:
                continue
            fitting = [kind for kind, ending in endings.items() if match[1].endswith(ending)]
            if not fitting:
                skipped[name] = f"its name does not end in {' or '.join(endings.values())}"
                continue
            kind = max(fitting, key=lambda kind: len(endings[kind]))
            used = found.setdefault(match[1].removesuffix(endings[kind]), {}).setdefault(kind, name)
            if used != name:
                skipped[name] = f"another copy of {used}, which is used"
    entries = []
    for id, files in sorted(found.items()):
        entries.append(Entry({m: files[m] for m in suffixes if m in files}, files.get(""), id))
    return entries, skipped


def read_list(path: Path, modalities: Sequence[str]) -> list[Entry]:
    """The entries of a .json or .csv file.

    JSON: {"training": [{"image": path or [path of each modality], "label": path}, ...]}, one path
    standing for a file that holds all modalities, as MONAI and the Decathlon
    write it; "validation" and "test" likewise, and "id" and "patient" may stand beside "image". CSV: a column named
    like each modality, `label`, and perhaps `id` and `patient`.

    Raises:
        UserError: it cannot be read as that.
    """
    if path.suffix == ".json":
        return _from_json(path, modalities)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path} as a table: {error}") from error
    missing = [column for column in (*modalities, "label") if not rows or column not in rows[0]]
    if missing:
        expected = ", ".join((*modalities, "label"))
        raise UserError(f"{path} has no column {missing[0]}, or no row; expected {expected} and perhaps id, patient")
    entries = []
    for row in rows:
        images = {modality: row[modality] for modality in modalities if row[modality]}
        entries.append(Entry(images, row["label"] or None, row.get("id") or None, row.get("patient") or None))
    return entries


def _from_json(path: Path, modalities: Sequence[str]) -> list[Entry]:
    raw = read_json(path)
    if not isinstance(raw, dict) or not any(raw.get(key) for key in _SIDES):
        raise UserError(f'{path} is no datalist: expected {{"training": [{{"image": ..., "label": ...}}, ...]}}')
    entries = []
    for key, side in _SIDES.items():
        for number, entry in enumerate(raw.get(key, [])):
            entry = entry if isinstance(entry, dict) else {"image": entry}  # the Decathlon's unlabelled test images
            images = entry.get("image")
            paths: list[Any] = images if isinstance(images, list) else [images] * len(modalities)
            if len(paths) != len(modalities) or not all(isinstance(p, str) for p in paths):
                expected = f"{len(modalities)} path(s) ({', '.join(modalities)})"
                raise UserError(f"{path}: {key}[{number}] has the image {images!r}; expected {expected}")
            given = {name: _text(entry.get(name)) for name in ("id", "patient")}
            entries.append(Entry(dict(zip(modalities, paths, strict=True)), entry.get("label"), **given, side=side))
    return entries


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
