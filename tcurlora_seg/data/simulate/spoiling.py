"""How single defects get into the files of a case.

Every function takes the folder, the case and a sound one, and gives the path that a report should name and the case as
it can be used now: None if it must be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import cast

import numpy as np

from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.simulate.folder import CohortFolder

Spoilt = tuple[str, Case | None]
Spoiler = Callable[[CohortFolder, Case, Case], Spoilt]


def truncated(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    folder.truncate(_image(case))
    return _image(case), None


def nan(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    image, affine = folder.read(_image(case))
    image = image.astype(np.float32)
    image[tuple(slice(n // 2, n // 2 + 2) for n in image.shape)] = np.nan
    folder.write(_image(case), image, affine)
    return _image(case), None


def other_shape(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    label, affine = folder.read(case.label_paths[0])
    folder.write(case.label_paths[0], label[:, :-1], affine)
    return case.label_paths[0], None


def other_affine(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    label, affine = folder.read(case.label_paths[0])
    folder.write(case.label_paths[0], label, affine @ np.diag([1.5, 1, 1, 1]))
    return case.label_paths[0], None


def empty(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    for path in case.label_paths:
        label, affine = folder.read(path)
        folder.write(path, np.zeros_like(label), affine)
    return case.label_paths[0], None


def fractional(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    for path in case.label_paths:
        label, affine = folder.read(path)
        folder.write(path, (label + np.roll(label, 1, axis=0).astype(np.float32)) / 2, affine)
    return case.label_paths[0], None


def duplicate(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    for path, other in zip(case.paths, sound.paths, strict=True):
        folder.copy(other, path)
    return _image(case), None


def large_voxels(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    for path in case.paths:
        array, affine = folder.read(path)
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        folder.write(path, array, affine @ np.diag([*(25 / sizes), 1]))
    return _image(case), None


def strange_value(value: int) -> Spoiler:
    """Half of the voxels of the largest label value get this one."""

    def spoil(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
        label, affine = folder.read(case.label_paths[0])
        label = label.copy()
        label.flat[np.flatnonzero(label == label.max())[::2]] = value
        folder.write(case.label_paths[0], label, affine)
        return case.label_paths[0], None

    return spoil


def mirrored(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    for path in case.label_paths:
        label, affine = folder.read(path)
        folder.write(path, label[::-1], affine)
    return case.label_paths[0], None


def two_images(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    path = _image(case)
    second = path.replace("2007-01-01", "2008-01-01").replace("_Br_2015", "_Br_2016")
    folder.copy(path, second)
    return second, None


def one_side(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    folder.remove(case.label_paths[1])
    return _image(case), None


def csf(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    paths = [path.replace(".nii", "_CSF.nii") for path in case.label_paths]
    for path, other in zip(case.label_paths, paths, strict=True):
        folder.copy(path, other)
    return paths[0], case


def odd_floats(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    for path in case.label_paths:
        label, affine = folder.read(path)
        folder.write(path, label + np.float32(26896.988), affine)
    return case.label_paths[0], case


def renumbered(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    label, affine = folder.read(case.label_paths[0])
    _, index = np.unique(label, return_inverse=True)
    folder.write(case.label_paths[0], index.reshape(label.shape).astype(np.uint8), affine)
    return case.label_paths[0], None


def native_space(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    image, affine = folder.read(_image(case))
    place = f"LPBA40/native_space/{case.id}"
    folder.write(f"{place}/{case.id}.native.mri.hdr", image[:, ::2], affine @ np.diag([1, 2, 1, 1]))
    return place, case


def folder_like_file(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    case = _moved(folder, case, lambda path: f"{path}/{PurePosixPath(path).name}")
    return _image(case), case


def one_level_down(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    case = _moved(folder, case, lambda path: f"UCSF-PDGM/{path}")
    return _image(case), case


def old_folder(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    old = {path: f"{PurePosixPath(path).parent}/old/{PurePosixPath(path).name}" for path in case.images.values()}
    for path, copy in old.items():
        folder.copy(path, copy)
    return f"{PurePosixPath(_image(case)).parent}/old", case


def follow_up(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    for path in case.images.values():
        folder.copy(path, path.replace("_11", "_21"))
    return PurePosixPath(_image(case)).parent.as_posix().replace("_11", "_21"), case


def claimed_label(folder: CohortFolder, case: Case, sound: Case) -> Spoilt:
    """Only the automatic label stays, which is none by default."""
    folder.remove(case.label_paths[0])
    table = f"ID,Structural imaging,Segmentation,Corrected segmentation\n{case.id},available,available,available\n"
    folder.write_bytes("UPENN-GBM_data_availability.csv", table.encode())
    return case.label_paths[0], None


def _moved(folder: CohortFolder, case: Case, place: Callable[[str], str]) -> Case:
    for path in case.paths:
        folder.move(path, place(path))
    images = {modality: place(path) for modality, path in case.images.items()}
    return replace(case, images=images, label=place(cast(str, case.label)))


def _image(case: Case) -> str:
    return next(iter(case.images.values()))
