"""Prediction for files: label maps in a folder, with a table."""

from __future__ import annotations

import csv
import io
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.spatialimages import SpatialImage

from tcurlora_seg.config.messages import explain
from tcurlora_seg.data.notes import listen
from tcurlora_seg.data.structures import volume_text
from tcurlora_seg.data.volume import open_volume
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path, read_json, write_json
from tcurlora_seg.inference.inputs import Input, find_inputs
from tcurlora_seg.inference.run import load_run, segmenter
from tcurlora_seg.inference.segmenter import Segmenter, describe_labels, volumes
from tcurlora_seg.inference.watch import watched
from tcurlora_seg.memory import keep_freed_memory

TABLE = "predictions.csv"
_FIRST, _LAST = ("image", "seconds", "voxel_mm", "orientation"), ("notes", "warnings")


def predict_files(
    *,
    checkpoint: str | Sequence[str],
    input: str,
    output: str,
    root: str | None = None,
    probabilities: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Segment images and write label maps, `labels.json`, `predictions.csv` and `probabilities/`.

    `scripts/predict.py` calls it. An image that cannot be segmented is reported, and the others are done.

    Args:
        checkpoint: as `directory` of `load_run`, or several, whose probabilities are averaged.
        input: an image, a folder or a manifest, see `find_inputs`.
        output: a folder.
        root: base of a manifest's paths; None for its folder.
        probabilities: whether to write those of every class, too.
        strict: refuse images and results unlike those of the training.
        overwrite: replace label maps; otherwise an image with a label map is skipped.
        options: `device`, `pretrained`, `overlap`, `mirror` and so on, see `load_run`.

    Raises:
        UserError: nothing to segment, folders that cannot be used, or at least one image failed.
    """
    directories = [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)
    runs = [load_run(directory, **options) for directory in directories]
    network = segmenter(runs)
    if strict and not network.typical:
        raise UserError(f"strict=true: nothing is known of the training images of {directories[0]}, so that no image "
                        "can be unlike them")  # fmt: skip
    if next(runs[0].network.parameters()).device.type == "cpu":
        keep_freed_memory()
    network.clearing.resolved(network.task)  # a mistake in it is told before the first image is computed
    folder = Path(output)
    found = find_inputs(Path(input), network.modalities, root)
    _check_output(folder, found, network)
    table = _read_table(folder / TABLE)
    failed, skipped = [], 0
    for number, item in enumerate(found, start=1):
        heading, target = f"[{number}/{len(found)}] {item.name}", folder / item.target
        if target.exists() and not overwrite:
            print(f"{heading}: {target} exists: skipped (overwrite=true replaces it)", flush=True)
            skipped += 1
            continue
        try:
            with watched(network.predictors, heading):
                row = _segment(network, item, folder, probabilities, strict)
            table[item.target] = {"image": item.target, **row}
            _write_table(folder / TABLE, table)
            print(f"{heading}: {_line(row, network)}", flush=True)
        except Exception as error:  # one bad file among many, or one too large, ends none of the others
            print(f"error: {heading}: {explain(error)}", file=sys.stderr, flush=True)
            failed.append(item.name)
    print(f"{len(found) - len(failed) - skipped} label map(s) written to {folder}, {skipped} skipped")
    if failed:
        raise UserError(f"{len(failed)} of {len(found)} image(s) could not be segmented: {', '.join(failed)}")


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows of earlier predictions, by image."""
    if not path.exists():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return {row["image"]: row for row in rows}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: move it away, or choose another output") from error


def _write_table(path: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    found = dict.fromkeys(key for row in rows.values() for key in row)
    columns = [*_FIRST, *(key for key in found if key not in (*_FIRST, *_LAST)), *_LAST]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))


def _segment(network: Segmenter, item: Input, folder: Path, probabilities: bool, strict: bool) -> dict[str, str]:
    """Segment one image, write the files, and give its row of the table."""
    started = time.perf_counter()
    for modality in network.modalities:
        if modality not in item.files:
            raise UserError(f"its {modality} image is missing; the network sees {', '.join(network.modalities)}")
    with listen() as notes:
        mask = open_volume(item.mask) if item.mask else None
        source = str(item.files[network.modalities[0]])
        found = network.run(_channels(network, item), source, mask=mask, probabilities=probabilities, strict=strict)
    if found.probabilities is not None:
        _save(found.probabilities, folder / "probabilities" / item.target)
    _save(found.label, folder / item.target)
    facts = {name.replace("/", "_"): f"{value:.6g}" for name, value in found.facts.items()}
    return {
        "seconds": f"{time.perf_counter() - started:.1f}",
        "voxel_mm": " x ".join(f"{size:.4g}" for size in found.spacing),
        "orientation": found.orientation,
        **facts,
        "notes": "; ".join(notes),
        "warnings": "; ".join(found.unusual),
    }


def _line(row: Mapping[str, str], network: Segmenter) -> str:
    """Lines on one image: time, volumes of up to twenty structures, notes and warnings."""
    names = list(network.task.structures) if len(network.task.structures) <= 20 else []
    sizes = {name: float(row[f"{name}/ml".replace("/", "_")]) for name in names}
    said = ", ".join([f"{row['seconds']} s", *(f"{name} {volume_text(size)}" for name, size in sizes.items())])
    words = [f"note: {row['notes']}"] if row["notes"] else []
    words += [f"warning: {line}" for line in row["warnings"].split("; ") if line]
    return "\n    ".join([*textwrap.wrap(said, 100), *words])


def _channels(network: Segmenter, item: Input) -> dict[str, SpatialImage]:
    """Images of a case by modality.

    Raises:
        UserError: a file that cannot be read, or with more or fewer volumes than modalities.
    """
    opened = {path: volumes(open_volume(path)) for path in {item.files[m] for m in network.modalities}}
    channels = {}
    for modality in network.modalities:
        path = item.files[modality]
        held = [other for other, place in item.files.items() if place == path]
        if len(opened[path]) != len(held):
            raise UserError(
                f"{path} holds {len(opened[path])} volume(s); expected {len(held)} ({', '.join(held)}), or a file each"
            )
        channels[modality] = opened[path][held.index(modality)]
    return channels


def _save(image: SpatialImage, path: Path) -> None:
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def _check_output(folder: Path, found: Sequence[Input], network: Segmenter) -> None:
    """Check the output folder and write `labels.json`.

    Raises:
        UserError: it holds the images, or label maps of another task.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file: give a folder; a label map takes the name of its image")
    if folder.name.endswith((".nii", ".nii.gz")):
        raise UserError(f"output={folder}: give a folder; a label map takes the name of its image")
    for item in found:
        for path in item.files.values():
            if (path if path.is_dir() else path.parent).resolve() == folder.resolve():
                raise UserError(f"output={folder} is the folder of the images: choose another")
    meaning, path = describe_labels(network.task), folder / "labels.json"
    if path.exists() and read_json(path) != meaning:
        raise UserError(f"{path} describes another task's label maps: choose another output")
    write_json(path, meaning)
