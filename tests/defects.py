"""Defects of real data folders, planted on purpose: each on a subject of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

import numpy as np
from nibabel.affines import voxel_sizes

from tcurlora_seg.data.manifest import Case, Manifest, write_manifest
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.data.simulate.cohorts import COHORTS, Subject
from tcurlora_seg.data.simulate.folder import CohortFolder
from tcurlora_seg.data.simulate.head import real_head
from tcurlora_seg.data.volume import read_volume

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A change of a volume and its affine."""


class Defect(NamedTuple):
    """One defect.

    Attributes:
        what: it is, in words.
        spoil: called as spoil(folder, case, sound) with a sound case besides; gives the path that a report should name
            and the case as it can be used now, None if it must be left out.
        id: whose it is in the real data set; None for any subject's.
    """

    what: str
    spoil: Callable[[SpoiltFolder, Case, Case], tuple[str, Case | None]]
    id: str | None = None


def defects_of(dataset: str) -> list[Defect]:
    """Defects of a data set's simulated cohort: those of any folder, then those known of this one."""
    return [*_ANYWHERE, *_OF[dataset]]


class SpoiltFolder(CohortFolder):
    """Folder of a cohort whose files can also be copied, moved and broken."""

    def copy(self, old: str, new: str) -> None:
        """Copy a file as it is, and with an .hdr its .img.gz."""
        for source, target in zip(_parts(old), _parts(new), strict=True):
            self._put(target, (self.root / source).read_bytes())

    def move(self, old: str, new: str) -> None:
        """Move a file, even into a folder of the file's own name."""
        data = (self.root / old).read_bytes()
        self.remove(old)
        self._put(new, data)

    def truncate(self, path: str) -> None:
        """Cut a file off in the middle, as a broken download does; of an .hdr the .img.gz."""
        last = _parts(path)[-1]
        data = (self.root / last).read_bytes()
        self._put(last, data[: len(data) // 2])

    def _put(self, path: str, data: bytes) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)


def simulate_with_defects(
    dataset: str, root: Path, *, subjects: int, spacing: float
) -> tuple[Manifest, dict[str, str], dict[str, str]]:
    """A simulated cohort, with every known defect of its data set planted on a further subject.

    Returns:
        its manifest, which lists what is usable; path -> what, of that to be left out and of that to be survived.
    """
    sound = simulate(dataset, root, subjects=subjects, spacing=spacing)
    cohort, folder, cases = COHORTS[dataset], SpoiltFolder(root), list(sound.cases)
    left_out: dict[str, str] = {}
    survived: dict[str, str] = {}
    for number, defect in enumerate(defects_of(dataset), start=subjects + 1):
        case = cohort.write(folder, Subject(defect.id or cohort.id(number), number, 0, spacing, real_head()))
        path, usable = defect.spoil(folder, case, sound.cases[0])
        (survived if usable else left_out)[path] = defect.what
        cases += [usable] if usable else []
    manifest = replace(sound, cases=tuple(sorted(cases, key=lambda case: case.id)))
    write_manifest(manifest, root / "manifest.json")
    return manifest, left_out, survived


def _changed(what: str, paths: Callable[[Case], Sequence[str]], change: Change, *, usable: bool = False) -> Defect:
    """A defect that changes the voxels or the affine of some files of a case; a report names the first of them."""

    def spoil(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, Case | None]:
        for path in paths(case):
            folder.write(path, *change(*read_volume(folder.root / path)))
        return paths(case)[0], case if usable else None

    return Defect(what, spoil)


def _parts(path: str) -> list[str]:
    return [path, f"{path.removesuffix('.hdr')}.img.gz"] if path.endswith(".hdr") else [path]


def _image(case: Case) -> str:
    return next(iter(case.images.values()))


def _labels(case: Case) -> list[str]:
    return case.label_paths


def _with_nan(image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = image.astype(np.float32)
    image[tuple(slice(n // 2, n // 2 + 2) for n in image.shape)] = np.nan
    return image, affine


def _strange(value: int) -> Change:
    """Half of the voxels of the largest label value get this one."""

    def change(label: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        label = label.copy()
        label.flat[np.flatnonzero(label == label.max())[::2]] = value
        return label, affine

    return change


def _renumbered(label: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, index = np.unique(label, return_inverse=True)
    return index.reshape(label.shape).astype(np.uint8), affine


def _truncated(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, None]:
    folder.truncate(_image(case))
    return _image(case), None


def _duplicate(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, None]:
    for path, other in zip(case.paths, sound.paths, strict=True):
        folder.copy(other, path)
    return _image(case), None


def _two_images(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, None]:
    second = _image(case).replace("2007-01-01", "2008-01-01").replace("_Br_2015", "_Br_2016")
    folder.copy(_image(case), second)
    return second, None


def _one_side(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, None]:
    folder.remove(case.label_paths[1])
    return _image(case), None


def _csf(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, Case]:
    paths = [path.replace(".nii", "_CSF.nii") for path in case.label_paths]
    for path, other in zip(case.label_paths, paths, strict=True):
        folder.copy(path, other)
    return paths[0], case


def _native_space(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, Case]:
    image, affine = read_volume(folder.root / _image(case))
    place = f"LPBA40/native_space/{case.id}"
    folder.write(f"{place}/{case.id}.native.mri.hdr", image[:, ::2], affine @ np.diag([1, 2, 1, 1]))
    return place, case


def _moved(what: str, place: Callable[[str], str]) -> Defect:
    def spoil(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, Case]:
        for path in case.paths:
            folder.move(path, place(path))
        images = {modality: place(path) for modality, path in case.images.items()}
        case = replace(case, images=images, label=place(cast(str, case.label)))
        return _image(case), case

    return Defect(what, spoil)


def _old_folder(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, Case]:
    for path in map(PurePosixPath, case.images.values()):
        folder.copy(str(path), f"{path.parent}/old/{path.name}")
    return f"{PurePosixPath(_image(case)).parent}/old", case


def _follow_up(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, Case]:
    for path in case.images.values():
        folder.copy(path, path.replace("_11", "_21"))
    return PurePosixPath(_image(case)).parent.as_posix().replace("_11", "_21"), case


def _claimed_label(folder: SpoiltFolder, case: Case, sound: Case) -> tuple[str, None]:
    """Only the automatic label stays, which is none by default."""
    folder.remove(case.label_paths[0])
    table = f"ID,Structural imaging,Segmentation,Corrected segmentation\n{case.id},available,available,available\n"
    folder.write_bytes("UPENN-GBM_data_availability.csv", table.encode())
    return case.label_paths[0], None


_MIRRORED = _changed("the label is mirrored left-right", _labels, lambda label, affine: (label[::-1], affine))
_LATER_YEARS = _changed("label value 3, as in BraTS' later years", _labels, _strange(3))
_OLD = "a folder old/ with earlier copies of the images"
_ANYWHERE = [
    Defect("the image file ends in the middle", _truncated),
    _changed("NaN in the image", lambda case: [_image(case)], _with_nan),
    _changed("the label has another shape", _labels, lambda label, affine: (label[:, :-1], affine)),
    _changed("the label has another affine: its voxels are 1.5 times as wide", _labels,
             lambda label, affine: (label, affine @ np.diag([1.5, 1, 1, 1]))),
    _changed("nothing is labelled", _labels, lambda label, affine: (np.zeros_like(label), affine)),
    _changed("fractional label values, as resampling leaves them", _labels,
             lambda label, affine: ((label + np.roll(label, 1, axis=0).astype(np.float32)) / 2, affine)),
    Defect("a copy of the first subject under another id", _duplicate),
    _changed("the headers say voxels of 25 mm", lambda case: case.paths,
             lambda array, affine: (array, affine @ np.diag([*(25 / voxel_sizes(affine)), 1]))),
]  # fmt: skip
_OF = {
    "lpba40": [
        _changed("an unknown label value, 200", _labels, _strange(200)),
        _changed("labels renumbered from 1 on", _labels, _renumbered),
        _MIRRORED,
        Defect("a native_space folder beside delineation_space", _native_space),
    ],
    "eadc_adni": [
        _changed("an unknown label value, 2", _labels, _strange(2)),
        Defect("a known defect: the label is mirrored left-right", _MIRRORED.spoil, "002_S_0938"),
        _MIRRORED,
        Defect("two images of one subject", _two_images),
        Defect("an image without the label of the right side", _one_side),
        Defect("label files of CSF beside the hippocampi's", _csf),
        _changed("label values 26896.988 and 26897.988 for 0 and 1", _labels,
                 lambda label, affine: (label + np.float32(26896.988), affine), usable=True),
    ],
    "brats2021": [
        _LATER_YEARS,
        _moved("folders named like the files that lie in them", lambda path: f"{path}/{PurePosixPath(path).name}"),
        _moved("one level further down, as in TCIA's copy", lambda path: f"UCSF-PDGM/{path}"),
    ],
    "upenn_gbm": [
        _LATER_YEARS,
        Defect(_OLD, _old_folder, "UPENN-GBM-00260_11"),
        Defect(_OLD, _old_folder, "UPENN-GBM-00509_11"),
        Defect("a follow-up without label", _follow_up),
        Defect("an expert's label that the availability table claims, but that is not there", _claimed_label),
    ],
}  # fmt: skip
