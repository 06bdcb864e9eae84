"""A user's list of images and labels: two folders joined by name, MONAI's datalist in JSON, or a table in CSV."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcurlora_seg.data.formats import ending, is_series, stem
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json

_log = logging.getLogger(__name__)
_SIDES = {"training": "train", "validation": "val", "test": "test", "testing": "test"}


@dataclass(frozen=True)
class Entry:
    """One case as listed; its files need not be there.

    Attributes:
        images: modality -> path; a modality may be missing.
        label: path or None.
        id, patient: None where the list has none.
        side: train, val or test, where the list has sides.
    """

    images: Mapping[str, str]
    label: str | None
    id: str | None = None
    patient: str | None = None
    side: str = "train"


def plain_name(text: str) -> str:
    """A name that can be a key, a column and a file name: non_enhancing_tumor of "Non-enhancing tumor"."""
    return re.sub(r"\W+", "_", text.strip().lower())


def join_folders(
    root: Path, images: str, labels: str, suffixes: Mapping[str, str], label_suffix: str
) -> tuple[list[Entry], dict[str, str]]:
    """Entries of files joined by name, CASE<suffix of the modality> and CASE<label_suffix>, in two folders or in one.

    Args:
        root: of the two folders.
        images: folder of the images.
        labels: folder of the labels.
        suffixes: modality -> suffix.
        label_suffix: of the labels.

    Returns:
        Entries by case, and why other volumes in the two folders are skipped.
    """
    places: dict[str, dict[str, str]] = {images: dict(suffixes)}
    places.setdefault(labels, {})[""] = label_suffix  # no modality: a label
    found: dict[str, dict[str, str]] = {}
    skipped = {}
    for folder, endings in places.items():
        for path in sorted((root / folder).glob("*")):
            name = path.relative_to(root).as_posix()
            if path.name.startswith(".") or not (ending(path) or is_series(path)):
                continue
            fitting = [kind for kind, suffix in endings.items() if stem(path).endswith(suffix)]
            if not fitting:
                skipped[name] = f"its name does not end in {' or '.join(endings.values())}"
                continue
            kind = max(fitting, key=lambda kind: len(endings[kind]))
            used = found.setdefault(stem(path).removesuffix(endings[kind]), {}).setdefault(kind, name)
            if used != name:
                skipped[name] = f"another file of the case that {used} is of, which is used"
                _log.warning("%s and %s are two files of one case: the first is used", used, name)
    entries = []
    for id, files in sorted(found.items()):
        entries.append(Entry({m: files[m] for m in suffixes if m in files}, files.get(""), id))
    return entries, skipped


def read_list(path: Path, modalities: Sequence[str]) -> list[Entry]:
    """Entries of a .json or .csv file.

    JSON: {"training": [{"image": path or [path of each modality], "label": path}, ...]}, as MONAI and the Decathlon
    write it; one path stands for a file that holds all modalities. "validation" and "test" likewise, and "id" and
    "patient" may stand beside "image". CSV: a column named like each modality, `label`, and perhaps `id` and `patient`;
    divided by commas, semicolons or tabs.

    Raises:
        UserError: it cannot be read as that.
    """
    if path.suffix == ".json":
        return _from_json(path, modalities)
    rows = _rows(path)
    missing = [column for column in (*modalities, "label") if not rows or column not in rows[0]]
    if missing:
        expected = ", ".join((*modalities, "label"))
        raise UserError(f"{path} has no column {missing[0]}, or no row; expected {expected} and perhaps id, patient")
    entries = []
    for row in rows:
        images = {modality: row[modality] for modality in modalities if row[modality]}
        entries.append(Entry(images, row["label"] or None, row.get("id") or None, row.get("patient") or None))
    return entries


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table as spreadsheets save it: in UTF-8, UTF-16 or Windows' Western code."""
    try:
        content = path.read_bytes()
        try:
            text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        lines = text.splitlines()
        lines = lines[1:] if lines and lines[0].strip('"').startswith("sep=") else lines  # for Excel's eyes
        heading = lines[0] if lines else ""
        return list(csv.DictReader(lines, delimiter=max(",;\t", key=heading.count)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else error
        raise UserError(f"cannot read {path} as a table: {reason}") from error


def _from_json(path: Path, modalities: Sequence[str]) -> list[Entry]:
    raw = read_json(path)
    if not isinstance(raw, dict) or not any(raw.get(key) for key in _SIDES):
        raise UserError(f'{path} is no datalist: expected {{"training": [{{"image": ..., "label": ...}}, ...]}}')
    for key, listed in raw.items():
        if key not in _SIDES and isinstance(listed, list) and any(isinstance(e, dict) and "image" in e for e in listed):
            raise UserError(f"{path}: the list '{key}' is none of {', '.join(_SIDES)}")
    entries = []
    for key, side in _SIDES.items():
        listed = raw.get(key) or []
        if not isinstance(listed, list):
            raise UserError(f"{path}: {key} is {str(listed)[:40]!r}; expected a list of images and labels")
        for number, entry in enumerate(listed):
            entry = entry if isinstance(entry, dict) else {"image": entry}  # the Decathlon's unlabelled test images
            images, label = entry.get("image"), entry.get("label") or None
            paths: list[Any] = images if isinstance(images, list) else [images] * len(modalities)
            if len(paths) != len(modalities) or not all(isinstance(p, str) for p in paths):
                expected = f"{len(modalities)} path(s) ({', '.join(modalities)})"
                raise UserError(f"{path}: {key}[{number}] has the image {images!r}; expected {expected}")
            if not isinstance(label, str | None):
                raise UserError(f"{path}: {key}[{number}] has the label {label!r}; expected one path")
            given = {name: str(entry[name]) for name in ("id", "patient") if entry.get(name) is not None}
            entries.append(Entry(dict(zip(modalities, paths, strict=True)), label, **given, side=side))
    return entries
