"""Slices of the best, the median and the worst case, for the viewer inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import HydraException
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tcurlora_seg.compare.collect import FinishedRun
from tcurlora_seg.compare.methods import ALL, Method
from tcurlora_seg.config.messages import explain
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.grid import turn_to
from tcurlora_seg.data.spacing import ras_spacing
from tcurlora_seg.data.task import without_ignored
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.overlay import COLOURS
from tcurlora_seg.inference.stored import stored_dataset

_PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
_MOST_SLICES = 16
_OVERLAY_WIDTH = 900


def choose_cases(methods: Sequence[Method]) -> dict[str, str]:
    """{"best", "median", "worst": case} by Dice, averaged over structures, seeds and methods.

    The same cases serve every method, so that their outlines can be compared on one image. Of few cases some words
    are left out.
    """
    means = [m.scores["dice"].drop(index=ALL, level="structure", errors="ignore").groupby("case").mean()
             for m in methods]  # fmt: skip
    dice = (sum(means[1:], means[0]) / len(means)).dropna()
    order = sorted(dice.index, key=lambda case: (-round(dice[case], 12), case))
    chosen: dict[str, str] = {}
    for word, position in (("best", 0), ("worst", len(order) - 1), ("median", len(order) // 2)):
        if order and order[position] not in chosen.values():
            chosen[word] = order[position]
    return {word: chosen[word] for word in ("best", "median", "worst") if word in chosen}


def viewer(methods: Sequence[Method], root: str | None, trust: Sequence[str] = ()) -> dict[str, Any]:
    """Content of the page's viewer.

    Args:
        methods: the methods, with their runs' predictions.
        root: data folder, if it is no longer where the runs had it.
        trust: see `check_trusted`.

    Returns:
        {"cases": [{"id", "word", "runs", "planes", "overlays"}], "note", "colours": of the classes,
        "names": {structure: its colour}, of those that are one class}. `runs` lists each method's runs on the
        case, the worst first: `name`, `dice` (mean over structures) and `at`, its place among the predictions. A plane
        has `name`, `width`, `height`, `aspect` (height of a voxel per width), `slices` (indices), `start`, and strips
        of all slices side by side: `image` (JPEG), `truth` and `predictions` (PNG of class indices). Without the data
        set `planes` is empty, `overlays` holds each run's picture, and `note` says why.
    """
    note, names = "", {}
    cases: list[dict[str, Any]] = []
    scored_by: list[list[FinishedRun]] = []
    for word, case in choose_cases(methods).items():
        runs: list[FinishedRun] = []
        shown = []
        for method in methods:
            scored = [run for run in method.runs if (run.cases["case"] == case).any()]
            scored.sort(key=lambda run: _dice(run, case))
            draw = "seed {}, draw {}" if method.draws > 1 else "seed {}"
            shown.append([{"name": draw.format(*run.repeat), "dice": _dice(run, case), "at": len(runs) + at}
                          for at, run in enumerate(scored)])  # fmt: skip
            runs += scored
        cases.append({"id": case, "word": word, "runs": shown, "planes": [], "overlays": []})
        scored_by.append(runs)
    try:
        for entry, runs in zip(cases, scored_by, strict=True):
            path = runs[0].directory / "config.yaml"
            dataset = stored_dataset(load_config(path), path, root, trust)
            entry["planes"] = _planes(entry["id"], dataset, [run.folder for run in runs])
            names = {name: COLOURS[(classes[0] - 1) % len(COLOURS)]
                     for name, classes in dataset.task.structures.items() if len(classes) == 1}  # fmt: skip
    except (HydraException, UserError) as error:  # slices of all cases, or of none
        reason = explain(error).split(". ")[0]
        note = f"No slices, but the pictures that the runs had saved: {reason}; root=DIR says where the images are."
        for entry, runs in zip(cases, scored_by, strict=True):
            kept = [_overlay(run.folder / "overlays" / f"{entry['id']}.png") for run in runs]
            entry |= {"planes": [], "overlays": kept}
    return {"cases": cases, "note": note, "colours": COLOURS, "names": names}


def _dice(run: FinishedRun, case: str) -> float:
    return float(run.cases.loc[run.cases["case"] == case, "dice"].mean())


def _planes(case: str, dataset: SegmentationDataset, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The three planes of one case.

    Raises:
        UserError: the image, the label or a prediction cannot be read or does not share the grid.
    """
    manifest = dataset.manifest()
    entry = next((c for c in manifest.cases if c.id == case), None)
    if entry is None or entry.label is None:
        raise UserError(f"{dataset.root} has no labelled case {case}")
    raw, affine = dataset.read_label(entry)
    _, stored, other = next(dataset.read_images(entry))
    image, _ = turn_to(stored, other, affine)  # the two may run along other axes: MINC beside NIfTI, LAS beside RAS
    truth = dataset.task.class_indices(raw)
    volumes = {"image": image.astype(np.float32), "truth": without_ignored(truth, truth)[1]}
    for i, folder in enumerate(folders):
        volumes[str(i)], _ = read_volume(folder / "predictions" / f"{case}.nii.gz")
    if len({volume.shape for volume in volumes.values()}) > 1:
        raise UserError(f"case {case}: image, label and predictions do not share one grid")
    volumes = _crop({name: turn_to(volume, affine, np.eye(4))[0] for name, volume in volumes.items()})
    volumes["image"] = _to_grey(volumes["image"])
    return [_strips(volumes, name, axis, ras_spacing(affine), len(folders)) for name, axis in _PLANES]


def _crop(volumes: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Cut away the empty space around the image and the masks."""
    inside = np.any([volume != 0 for volume in volumes.values()], axis=0)
    boxes = ndimage.find_objects(inside.astype(np.uint8))
    box = tuple(slice(max(0, side.start - 2), side.stop + 2) for side in boxes[0]) if boxes else ()
    return {name: volume[box] for name, volume in volumes.items()}


def _to_grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    inside = image[image != 0]
    low, high = np.percentile(inside if inside.size else image, [0.5, 99.5])
    return np.clip(255 * (image - low) / max(high - low, 1e-6), 0, 255).astype(np.uint8)


def _strips(
    volumes: Mapping[str, NDArray[Any]], name: str, axis: int, sizes: NDArray[np.float64], predictions: int
) -> dict[str, Any]:
    """The slices of one plane that a mask reaches, side by side; up is up or front, left is the subject's left."""
    across, along = (i for i in range(3) if i != axis)
    masks = [volumes["truth"], *(volumes[str(i)] for i in range(predictions))]
    reached = np.flatnonzero(np.any([(mask > 0).any(axis=(across, along)) for mask in masks], axis=0))
    if not len(reached):
        reached = np.array([volumes["image"].shape[axis] // 2])
    picked = reached[np.unique(np.linspace(0, len(reached) - 1, min(_MOST_SLICES, len(reached))).round().astype(int))]
    truth = [int((np.take(volumes["truth"], i, axis) > 0).sum()) for i in picked]

    def strip(volume: NDArray[Any]) -> Image.Image:
        slices = [np.take(volume, i, axis).T[::-1] for i in picked]
        return Image.fromarray(np.concatenate(slices, axis=1).astype(np.uint8))

    return {
        "name": name,
        "width": volumes["image"].shape[across],
        "height": volumes["image"].shape[along],
        "aspect": round(float(sizes[along] / sizes[across]), 4),
        "slices": [int(i) for i in picked],
        "start": int(np.argmax(truth)),
        "image": _data_uri(strip(volumes["image"]), "JPEG", quality=80),
        "truth": _data_uri(strip(masks[0]), "PNG"),
        "predictions": [_data_uri(strip(mask), "PNG") for mask in masks[1:]],
    }


def _overlay(path: Path) -> str:
    """A run's own picture of a case, made smaller; nothing if it has none."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError:
        return ""
    small.thumbnail((_OVERLAY_WIDTH, _OVERLAY_WIDTH))
    return _data_uri(small, "JPEG", quality=80)


def _data_uri(picture: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
