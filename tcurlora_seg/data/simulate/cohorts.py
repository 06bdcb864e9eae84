"""The on-disk layouts that simulated subjects are written in: those of the real data sets."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
import torch
from nibabel.fileholders import FileHolder
from torch import Tensor

from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.simulate.appearance import blur, contrast, scan
from tcurlora_seg.data.simulate.head import real_head
from tcurlora_seg.data.simulate.splines import Axes
from tcurlora_seg.data.simulate.tumour import draw_tumour, paint
from tcurlora_seg.data.simulate.warp import Warp, draw_warp, sample
from tcurlora_seg.files import atomic_path
from tcurlora_seg.randomness import generator


class Cohort(Protocol):
    """Writes one subject, a pure function of (seed, number, spacing), and says where."""

    def __call__(self, root: Path, number: int, seed: int, spacing: float) -> Case: ...


def lpba40(root: Path, number: int, seed: int, spacing: float) -> Case:
    """Skull-stripped T1 and structures as gzipped Analyze 7.5, whose voxels run to the left, front and top."""
    head = real_head()
    warp = draw_warp(head, generator("warp", seed, number), target=True)
    field = _field((181, 217, 181), spacing, signs=(-1, 1, 1), centre=(head.low + head.high) / 2)
    body = Anatomy.of(warp, field, spacing)
    g = generator("scan", seed, number)
    image = scan(contrast(body.t1, "t1", g), body.brain, body.axes, head, g)
    label = sample(head.labels, body.grid, mode="nearest")[0].to(torch.uint8) * body.brain
    id = f"S{number:02d}"
    folder = f"LPBA40/delineation_space/{id}"
    paths = [f"{folder}/{id}.delineation.{what}.hdr" for what in ("skullstripped", "structure.label")]
    for path, volume in zip(paths, (image, label), strict=True):
        _write_analyze(root / path, body.whole(volume), spacing)
    return Case(id=id, patient=id, images={"t1": paths[0]}, label=paths[1])


def brats2021(root: Path, number: int, seed: int, spacing: float) -> Case:
    """Four skull-stripped modalities and a tumour as NIfTI, whose voxels run to the left, back and top."""
    head = real_head()
    warp = draw_warp(head, generator("warp", seed, number), target=False)
    field = _field((240, 240, 155), spacing, signs=(-1, -1, 1), centre=head.centre)
    body = Anatomy.of(warp, field, spacing)
    label = draw_tumour(body.t1, body.brain, body.height, body.axes, generator("tumour", seed, number))
    id = f"BraTS2021_{number + (number - 1) // 3:05d}"  # the real ids have gaps too
    paths = {what: f"{id}/{id}_{what}.nii.gz" for what in ("flair", "t1", "t1ce", "t2")}
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[1, 3] = 239.0
    for modality, path in paths.items():
        g = generator("scan", seed, number, modality)
        image = paint(contrast(body.t1, modality, g), label, modality, body.axes, g)
        _write_nifti(root / path, body.whole(scan(image, body.brain, body.axes, head, g)), affine)
    label_path = f"{id}/{id}_seg.nii.gz"
    _write_nifti(root / label_path, body.whole(label), affine)
    return Case(id=id, patient=id, images=paths, label=label_path)


COHORTS: dict[str, Cohort] = {"lpba40": lpba40, "brats2021": brats2021}


@dataclass(frozen=True)
class Anatomy:
    """A warped head in the box of the field of view that holds its brain.

    Attributes:
        axes: positions of the box's voxels, mm.
        grid: where they lie in the head, for `sample`.
        height: (X, Y, Z) distance above the commissures in the head, mm.
        t1: (X, Y, Z) intensity of the head.
        brain: (X, Y, Z) bool.
        box, shape: the box in the field of view, and that field's shape.
    """

    axes: Axes
    grid: Tensor
    height: Tensor
    t1: Tensor
    brain: Tensor
    box: tuple[slice, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, warp: Warp, field: Axes, spacing: float) -> Anatomy:
        """The head as `warp` shows it at the voxels of `field`."""
        skip = max(1, round(6 / spacing))
        coarse = sample(warp.head.brain, warp.grid(warp.points([axis[::skip] for axis in field])))[0] > 0
        found = [torch.nonzero(coarse.amax(other)).flatten() for other in ((1, 2), (0, 2), (0, 1))]
        box = tuple(slice(max(0, int(f[0]) - 1) * skip, (int(f[-1]) + 1) * skip + 1) for f in found)
        axes = [axis[s] for axis, s in zip(field, box, strict=True)]
        points = warp.points(axes)
        grid = warp.grid(points)
        t1, brain = sample(_seen(spacing), grid)
        return cls(axes, grid, points[2], t1, brain > 0.5, box, tuple(len(axis) for axis in field))

    def whole(self, volume: Tensor) -> np.ndarray:
        """The volume in the whole field of view, 0 outside the box."""
        result = np.zeros(self.shape, dtype=volume.numpy().dtype)
        result[self.box] = volume.numpy()
        return result


def _field(size: Sequence[int], spacing: float, signs: Sequence[int], centre: Tensor) -> list[Tensor]:
    """Positions in mm of the voxels of a field of view of `size` mm; a sign of -1 runs to the left, back or down."""
    axes = []
    for n, sign, middle in zip(size, signs, centre.tolist(), strict=True):
        count = int(n / spacing + 0.5)
        axes.append(middle + sign * spacing * (torch.arange(count) - (count - 1) / 2))
    return axes


@cache
def _seen(spacing: float) -> Tensor:
    """The head's T1, blurred as voxels of that size blur it, and its brain: (2, X, Y, Z)."""
    head = real_head()
    return torch.stack([blur(head.t1[0], 0.4 * spacing if spacing > 1 else 0.0), head.brain[0]])


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    _write_gzip(path, image.to_bytes())


def _write_analyze(path: Path, array: np.ndarray, spacing: float) -> None:
    """Write path (.hdr) and its .img.gz; four dimensions, the last of one, as LPBA40's files have."""
    image = nib.AnalyzeImage(array[..., None], None)
    image.header.set_zooms((spacing, spacing, spacing, 1.0))
    header, voxels = BytesIO(), BytesIO()
    image.to_file_map({"header": FileHolder(fileobj=header), "image": FileHolder(fileobj=voxels)})
    _write_gzip(path.with_suffix(".img.gz"), voxels.getvalue())
    with atomic_path(path) as temporary:
        temporary.write_bytes(header.getvalue())


def _write_gzip(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(data, compresslevel=1, mtime=0))
