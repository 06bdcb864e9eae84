"""Examination of a case: can it be trained on? By its voxels, not only by its headers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import voxel_sizes

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.grid import AXES, is_reversed
from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.notes import listen, note
from tcurlora_seg.data.sides import is_left
from tcurlora_seg.data.structures import shrunken
from tcurlora_seg.data.task import IGNORED, without_ignored
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    from tcurlora_seg.data.prepared import PreparedCase

VERSION = 3
"""Of the questions asked here; with another one every case is examined again."""


@dataclass(frozen=True)
class Examination:
    """Findings on a case's files.

    Attributes:
        problem: why the case cannot be used; None if it can. With a problem the rest is empty.
        shape: of the files.
        spacing: voxel size in mm.
        target_ml: volume of the task's structures together.
        notes: remarks about files that are used all the same.
        images: path, with the modality where a file holds several -> hash of the prepared voxels.
        label: hash of the class indices.
    """

    problem: str | None = None
    shape: Sequence[int] = ()
    spacing: Sequence[float] = ()
    target_ml: float = 0.0
    images: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    notes: Sequence[str] = ()


def examine(dataset: SegmentationDataset, id: str) -> Examination:
    """Findings on one case, prepared as for training, with every modality that it has.

    `SegmentationDataset.prepare` finds what cannot be read, differs in shape or affine, holds unknown labels, NaN or
    nothing. Here follow an empty target, one that preparation makes vanish, heads of impossible size, a modality
    stored twice. Nothing is raised.
    """
    case = dataset.manifest().case(id)
    whole = copy(dataset)
    whole.modalities = tuple(m for m in dataset.all_modalities if m in case.images)
    try:
        with listen() as heard:
            found = _look(whole, case, whole.prepare(id))
        return replace(found, notes=[line.replace(f"{dataset.root}/", "") for line in heard])
    except UserError as error:
        return Examination(str(error).removeprefix(f"case {id}: ").replace(f"{dataset.root}/", ""))
    except Exception as error:  # no strange file may end the examination of a thousand others
        return Examination(f"{', '.join(case.paths)}: {type(error).__name__}: {error}")


def _look(dataset: SegmentationDataset, case: Case, item: PreparedCase) -> Examination:
    paths = [case.images[modality] for modality in dataset.modalities]
    if len({*paths}) < len(paths):
        paths = [f"{path} ({modality})" for path, modality in zip(paths, dataset.modalities, strict=True)]
    affine, native = item.affine, item.native_label.numpy()
    sizes, target = voxel_sizes(affine), (native > 0) & (native != IGNORED)
    if not target.any():
        task = dataset.task.name
        raise UserError(f"{case.label_paths[0]}: the target is empty, no voxel has a label of dataset.task={task}")
    lines = shrunken(item, dataset.task)
    if not without_ignored(item.label.numpy(), item.label.numpy())[1].any():
        raise UserError(f"{case.label_paths[0]}: {'; '.join(lines)}")
    for line in lines:
        note("shrunken", f"{case.label_paths[0]}: {line}")
    names = {classes[0]: name for name, classes in dataset.task.structures.items() if len(classes) == 1}
    for pair in dataset.task.mirror_pairs:
        left, right = sorted(pair, key=lambda index: not is_left(names.get(index, "")))
        if is_left(names.get(left, "")) and is_reversed(native, affine, 0, left, right):
            line = f"{names[left]} lies to the right of {names.get(right)}: are they exchanged, or is the header wrong?"
            note("sides", f"{case.label_paths[0]}: {line}")
    image = item.image
    _check_extent(image.numpy(), voxel_sizes(image.affine.numpy()), dataset.extent_mm, paths[0])
    hashes = {path: _hash(channel.numpy()) for path, channel in zip(paths, image, strict=True)}
    twins = [path for path in paths if list(hashes.values()).count(hashes[path]) > 1]
    if twins:
        raise UserError(f"{' and '.join(twins)} hold the same voxels under the names of different modalities")
    volume = float(np.count_nonzero(target) * np.prod(sizes) / 1000)
    return Examination(None, native.shape, sizes.round(4).tolist(), volume, hashes, _hash(native))


def _check_extent(image: np.ndarray, sizes: np.ndarray, expected: tuple[float, float] | None, path: str) -> None:
    """Refuse a head that is too small or too large, as one is whose voxel size is not that of its header."""
    if expected is None:
        return
    low, high = expected
    inside = (image != 0).any(axis=0)
    if not inside.any():
        raise UserError(f"{path}: scaling leaves nothing of it above 0; see dataset.preparation.limits")
    for axis, size in enumerate(sizes):
        ends = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        extent = float((ends[-1] - ends[0] + 1) * size)
        if not low <= extent <= high:
            raise UserError(
                f"{path}: what it shows is {extent:.0f} mm long {AXES[axis]}; a head has {low:.0f} to {high:.0f}: "
                "compare the voxel size in its header with the scanner's"
            )


def _hash(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def duplicates(cases: Mapping[str, Examination]) -> dict[str, str]:
    """Reasons, by case, against cases with an image that another case has too.

    The first stays if all have the same label, too. Otherwise none does: nobody can tell whose image it is.
    """
    holders: dict[str, list[tuple[str, str]]] = {}
    for id, examination in cases.items():
        for path, digest in examination.images.items():
            holders.setdefault(digest, []).append((id, path))
    reasons: dict[str, str] = {}
    for group in holders.values():
        same = len({cases[id].label for id, _ in group}) == 1
        for n, (id, path) in enumerate(group):
            other = group[0 if n else -1][1]
            if same and n:
                reasons.setdefault(id, f"{path} holds the same voxels as {other}, and its label is the same too")
            elif not same:
                reasons.setdefault(id, f"{path} holds the same voxels as {other}, but with another label: whose is it?")
    return reasons


def same_labels(cases: Mapping[str, Examination], patients: Mapping[str, str]) -> dict[str, str]:
    """Notes, by case, on labels that are another patient's to the voxel: T1 and T2 of one person as two cases?

    Args:
        cases: those that are used.
        patients: of the cases.
    """
    first: dict[str, str] = {}
    notes = {}
    for id, examination in cases.items():
        other = first.setdefault(examination.label, id)
        if patients[id] != patients[other]:
            notes[id] = (
                f"its label is that of {other} to the voxel: are both of one person? A split may train on one of them "
                "and test on the other"
            )
    return notes


def examine_all(dataset: SegmentationDataset, ids: Sequence[str], workers: int) -> Iterator[tuple[str, Examination]]:
    """Findings on many cases, each yielded as soon as it is there.

    Threads unpack and compute side by side. A process would import MONAI anew, which takes longer than many cases.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(examine, dataset, id): id for id in ids}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
