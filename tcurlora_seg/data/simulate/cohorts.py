"""Layouts on disk of the simulated subjects: those of the real data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.simulate.appearance import contrast, head_contrast, scan
from tcurlora_seg.data.simulate.folder import CohortFolder
from tcurlora_seg.data.simulate.head import Head
from tcurlora_seg.data.simulate.tumour import draw_tumour, paint, smoothed
from tcurlora_seg.data.simulate.warp import draw_warp, resized
from tcurlora_seg.data.simulate.warped_head import WarpedHead, field_of_view
from tcurlora_seg.randomness import generator, uniform


class Subject(NamedTuple):
    """A subject to write; what it shows is a pure function of (seed, number, spacing, head).

    Attributes:
        id: of its case.
        number: from 1 on.
        seed: of the cohort.
        spacing: voxel size, mm.
        head: that it is varied from.
    """

    id: str
    number: int
    seed: int
    spacing: float
    head: Head


class Cohort(NamedTuple):
    """Cohort of a data set: how its subjects are numbered from 1 on, and how one is written into a folder."""

    id: Callable[[int], str]
    write: Callable[[CohortFolder, Subject], Case]


def _lpba40(folder: CohortFolder, subject: Subject) -> Case:
    """Skull-stripped T1 and structures as gzipped Analyze 7.5, whose voxels run to the left, front and top."""
    id, number, seed, spacing, head = subject
    warp = draw_warp(head, generator("warp", seed, number), target=True)
    field = field_of_view((181, 217, 181), spacing, signs=(-1, 1, 1), centre=(head.low + head.high) / 2)
    body = WarpedHead.of(warp, field, spacing)
    g = generator("scan", seed, number)
    image = scan(contrast(body.t1, "t1", g), body.brain, body.axes, head, g)
    place = f"LPBA40/delineation_space/{id}"
    paths = [f"{place}/{id}.delineation.{what}.hdr" for what in ("skullstripped", "structure.label")]
    for path, volume in zip(paths, (image, body.labels()), strict=True):
        folder.write(path, body.whole(volume), np.diag([-spacing, spacing, spacing, 1.0]))
    return Case(id=id, patient=id, images={"t1": paths[0]}, label=paths[1])


def _eadc_adni(folder: CohortFolder, subject: Subject) -> Case:
    """T1 with its skull in LONI's tree, one label a side, a brain mask beside them; voxels run right, front and top."""
    id, number, seed, spacing, head = subject
    g = generator("warp", "eadc_adni", seed, number)
    left = uniform(g, 3.3, 4.7)  # ml: from an old person's to a healthy adult's
    warp = resized(draw_warp(head, g, target=True), left, left * uniform(g, 0.95, 1.05))
    field = field_of_view((197, 233, 189), spacing, signs=(1, 1, 1), centre=torch.tensor([0.0, -18.0, 22.0]))
    body = WarpedHead.of(warp, field, spacing, skull=True)
    g = generator("scan", "eadc_adni", seed, number)
    image = scan(head_contrast(body.t1, g), body.covered(), body.axes, head, g)
    labels = body.labels()
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [float(axis[0]) for axis in field]
    release, series = "HarP_135_final_release_2015", f"S{12000 + number}"
    name = f"ADNI_{id}_MR_{release}_Br_20150212120000000_{series}_I{470000 + number}.nii"
    case = Case(
        id=id,
        patient=id,
        images={"t1": f"ADNI/{id}/{release}/2007-01-01_12_00_00.0/{series}/{name}"},
        label={
            side: f"Labels_{35 if number % 4 == 0 else 100}_NIFTI/ADNI_{id}_{30000 + number}_{side[0].upper()}.nii"
            for side in ("left", "right")
        },
        mask=f"brain_masks/ADNI_{id}_brain_mask.nii.gz",
    )
    voxels = (image, labels == 165, labels == 166, body.brain)
    for path, array in zip(case.paths, voxels, strict=True):
        folder.write(path, body.whole(array if array is image else array.to(torch.uint8)), affine)
    return case


def _brats2021(folder: CohortFolder, subject: Subject) -> Case:
    """Four skull-stripped modalities and a tumour as NIfTI, whose voxels run to the left, back and top."""
    id = subject.id
    images = {what: f"{id}/{id}_{what}.nii.gz" for what in ("flair", "t1", "t1ce", "t2")}
    case = Case(id=id, patient=id, images=images, label=f"{id}/{id}_seg.nii.gz")
    return _write_glioma(folder, subject, case, (subject.seed, subject.number))


def _upenn_gbm(folder: CohortFolder, subject: Subject) -> Case:
    """Files like BraTS', in one folder for images, one for experts' labels and one for automatic ones."""
    id, top = subject.id, "NIfTI-files"
    names = ("t1", "t1gd", "t2", "flair")
    images = {name: f"{top}/images_structural/{id}/{id}_{name.upper()}.nii.gz" for name in names}
    case = Case(id, id.removesuffix("_11"), images, f"{top}/images_segm/{id}_segm.nii.gz")
    automatic = f"{top}/automated_segm/{id}_automated_approx_segm.nii.gz"
    return _write_glioma(folder, subject, case, ("upenn_gbm", subject.seed, subject.number), automatic)


def _write_glioma(
    folder: CohortFolder, subject: Subject, case: Case, key: tuple[int | str, ...], automatic: str | None = None
) -> Case:
    """Write one head with a tumour: the images and the label of a case, and perhaps a smoother, automatic label."""
    spacing, head = subject.spacing, subject.head
    warp = draw_warp(head, generator("warp", *key), target=False)
    field = field_of_view((240, 240, 155), spacing, signs=(-1, -1, 1), centre=head.centre)
    body = WarpedHead.of(warp, field, spacing)
    tumour = draw_tumour(body.t1, body.brain, body.height, body.axes, generator("tumour", *key))
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[1, 3] = 239.0
    for name, path in case.images.items():
        modality = "t1ce" if name == "t1gd" else name
        g = generator("scan", *key, modality)
        image = paint(contrast(body.t1, modality, g), tumour, modality, body.axes, g)
        folder.write(path, body.whole(scan(image, body.brain, body.axes, head, g)), affine)
    folder.write(case.label_paths[0], body.whole(tumour), affine)
    if automatic:
        folder.write(automatic, body.whole(smoothed(tumour, spacing) * body.brain), affine)
    return case


def _upenn_id(number: int) -> str:
    return f"UPENN-GBM-{number + (number > 259) + (number > 507):05d}_11"  # 260 and 509 have a known defect


COHORTS = {
    "lpba40": Cohort(lambda number: f"S{number:02d}", _lpba40),
    "eadc_adni": Cohort(lambda number: f"900_S_{number:04d}", _eadc_adni),  # ADNI has no site 900
    "brats2021": Cohort(lambda number: f"BraTS2021_{number + (number - 1) // 3:05d}", _brats2021),  # gaps, as really
    "upenn_gbm": Cohort(_upenn_id, _upenn_gbm),
}
