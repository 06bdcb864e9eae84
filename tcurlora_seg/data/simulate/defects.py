"""What goes wrong in real data folders, planted on purpose: each defect on a subject of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.simulate import spoiling
from tcurlora_seg.data.simulate.folder import CohortFolder


class Defect(NamedTuple):
    """One defect: what was planted, in words; how; and whose it is in the real data set, None for any subject's."""

    what: str
    spoil: spoiling.Spoiler
    id: str | None = None


_ANYWHERE = [
    Defect("the image file ends in the middle", spoiling.truncated),
    Defect("NaN in the image", spoiling.nan),
    Defect("the label has another shape", spoiling.other_shape),
    Defect("the label has another affine: its voxels are 1.5 times as wide", spoiling.other_affine),
    Defect("nothing is labelled", spoiling.empty),
    Defect("fractional label values, as resampling leaves them", spoiling.fractional),
    Defect("a copy of the first subject under another id", spoiling.duplicate),
    Defect("the headers say voxels of 25 mm", spoiling.large_voxels),
]
_OF = {
    "lpba40": [
        Defect("an unknown label value, 200", spoiling.strange_value(200)),
        Defect("labels renumbered from 1 on", spoiling.renumbered),
        Defect("the label is mirrored left-right", spoiling.mirrored),
        Defect("a native_space folder beside delineation_space", spoiling.native_space),
    ],
    "eadc_adni": [
        Defect("an unknown label value, 2", spoiling.strange_value(2)),
        Defect("a known defect: the label is mirrored left-right", spoiling.mirrored, "002_S_0938"),
        Defect("the label is mirrored left-right", spoiling.mirrored),
        Defect("two images of one subject", spoiling.two_images),
        Defect("an image without the label of the right side", spoiling.one_side),
        Defect("label files of CSF beside the hippocampi's", spoiling.csf),
        Defect("label values 26896.988 and 26897.988 for 0 and 1", spoiling.odd_floats),
    ],
    "brats2021": [
        Defect("label value 3, as in BraTS' later years", spoiling.strange_value(3)),
        Defect("folders named like the files that lie in them", spoiling.folder_like_file),
        Defect("one level further down, as in TCIA's copy", spoiling.one_level_down),
    ],
    "upenn_gbm": [
        Defect("label value 3, as in BraTS' later years", spoiling.strange_value(3)),
        Defect("a folder old/ with earlier copies of the images", spoiling.old_folder, "UPENN-GBM-00260_11"),
        Defect("a folder old/ with earlier copies of the images", spoiling.old_folder, "UPENN-GBM-00509_11"),
        Defect("a follow-up without label", spoiling.follow_up),
        Defect("an expert's label that the availability table claims, but that is not there", spoiling.claimed_label),
    ],
}


def defects_of(dataset: str) -> list[Defect]:
    """What is planted in a data set's simulated cohort: what happens anywhere, then what is known of this one."""
    return [*_ANYWHERE, *_OF[dataset]]


def plant(
    folder: CohortFolder, defects: Sequence[Defect], cases: Sequence[Case], sound: Case
) -> tuple[list[Case], dict[str, dict[str, str]]]:
    """Plant every defect on its case.

    Returns:
        the cases that are usable all the same; {"left_out": {path: what}, "survived": {path: what}}.
    """
    survivors: list[Case] = []
    planted: dict[str, dict[str, str]] = {"left_out": {}, "survived": {}}
    for defect, case in zip(defects, cases, strict=True):
        path, usable = defect.spoil(folder, case, sound)
        planted["survived" if usable else "left_out"][path] = defect.what
        survivors += [usable] if usable else []
    return survivors, planted
