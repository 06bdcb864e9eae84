"""Heads that cohorts are simulated from: T1 image, brain, anatomy in LPBA40's numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tcurlora_seg.config.paths import PACKAGE
from tcurlora_seg.data.volume import read_volume

FOLDER = PACKAGE / "assets" / "head"
DESCRIPTION = "Colin27 (mean of 27 T1 scans of one man) with AAL's regions"

# LPBA40 id of the left structure -> AAL numbers of its left regions; right is one more in both numberings. AAL has no
# brain stem (182) and some regions without a counterpart (calcarine, inferior parietal, medial orbital, thalamus ...).
_LEFT = {
    21: (3, 19, 23), 23: (7,), 25: (11, 13), 27: (1,), 29: (5, 9), 31: (15,), 33: (27,), 41: (57,), 43: (59,),
    45: (63,), 47: (65,), 49: (67,), 61: (49,), 63: (51,), 65: (53,), 67: (45,), 81: (79, 81, 83), 83: (85, 87),
    85: (89,), 87: (39,), 89: (47,), 91: (55,), 101: (29,), 121: (31, 33, 35), 161: (71,), 163: (73,),
}  # fmt: skip
HIPPOCAMPI = (165, 166)
_AAL_HIPPOCAMPUS = {165: 37, 166: 38}
_AAL_CEREBELLUM = range(91, 117)
_CEREBELLUM = 181

HIPPOCAMPUS_ML = 4.6
"""Volume of one hippocampus of the unwarped head; AAL's own is 7.5 ml, a healthy adult's 3 to 5 ml."""


@dataclass(frozen=True, eq=False)
class Head:
    """A head on its 1 mm grid, axes in RAS order; every volume is (channels, X, Y, Z) float32.

    Attributes:
        t1: T1 intensity of the brain, 0 outside; liquor about 35, grey matter 82, white matter 104.
        with_skull: gives that of the whole head: fat is about 200, air 0.
        brain: 1 inside the brain.
        labels: LPBA40's ids, 0 where there is no counterpart.
        inward: gradient (per mm) of the blurred hippocampi, which points into them from all sides; voxels of 2 mm.
        low, high: position in mm of the first and of the last voxel's centre.
    """

    t1: Tensor
    with_skull: Callable[[], Tensor]
    brain: Tensor
    labels: Tensor
    inward: Tensor
    low: Tensor
    high: Tensor

    @cached_property
    def centre(self) -> Tensor:
        """Centre of gravity of the brain, mm."""
        return torch.nonzero(self.brain[0]).float().mean(0) + self.low

    @cached_property
    def hippocampi(self) -> Tensor:
        """(1, X, Y, Z) 1 in the hippocampi of both sides."""
        return ((self.labels == HIPPOCAMPI[0]) | (self.labels == HIPPOCAMPI[1])).float()

    @cached_property
    def reach(self) -> tuple[Tensor, Tensor]:
        """Corners, mm, of the box outside of which `inward` is 0."""
        found = torch.nonzero(self.inward.abs().amax(0))
        return self.low + 2.0 * (found.amin(0) - 1), self.low + 2.0 * (found.amax(0) + 1)


@cache
def _with_skull() -> Tensor:
    voxels, _ = read_volume(FOLDER / "colin27_T1.nii.gz")
    return torch.from_numpy(voxels.astype(np.float32))[None]


@cache
def real_head() -> Head:
    """The head in the package; read once a process, in about two seconds."""
    voxels, affine = read_volume(FOLDER / "colin27_T1_brain.nii.gz")
    t1 = voxels.astype(np.float32)
    aal, _ = read_volume(FOLDER / "colin27_aal.nii.gz")
    labels = np.zeros_like(aal)
    for left, regions in _LEFT.items():
        labels[np.isin(aal, regions)] = left
        labels[np.isin(aal, [r + 1 for r in regions])] = left + 1
    labels[np.isin(aal, _AAL_CEREBELLUM)] = _CEREBELLUM
    for label, region in _AAL_HIPPOCAMPUS.items():
        labels[_hippocampus(t1, aal == region)] = label
    low = affine[:3, 3]
    high = low + np.array(t1.shape) - 1
    return Head(
        t1=torch.from_numpy(t1)[None],
        with_skull=_with_skull,
        brain=torch.from_numpy((t1 > 0).astype(np.float32))[None],
        labels=torch.from_numpy(labels.astype(np.float32))[None],
        inward=inward(labels),
        low=torch.tensor(low, dtype=torch.float32),
        high=torch.tensor(high, dtype=torch.float32),
    )


def inward(labels: np.ndarray) -> Tensor:
    """`Head.inward` of (X, Y, Z) LPBA40 ids."""
    blurred = ndimage.gaussian_filter(np.isin(labels, HIPPOCAMPI).astype(np.float32), 3.0)[::2, ::2, ::2]
    return torch.from_numpy(np.stack(np.gradient(blurred, 2.0)).astype(np.float32))


def _hippocampus(t1: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The grey matter in AAL's generous, blocky hippocampus, smooth and in one piece, `HIPPOCAMPUS_ML` in volume.

    AAL's region reaches into the ventricle and into white matter; a label that no image shows cannot be learnt.
    """
    box = ndimage.find_objects(region.astype(np.uint8))[0]
    box = tuple(slice(s.start - 8, s.stop + 8) for s in box)
    inside = ndimage.gaussian_filter(region[box].astype(np.float32), 1.0)
    value = ndimage.gaussian_filter(t1[box], 0.6)
    grey = np.clip((value - 58) / 12, 0, 1) * np.clip((101 - value) / 8, 0, 1)
    score = ndimage.gaussian_filter(inside * grey, 0.9)
    level = np.sort(score, axis=None)[-round(HIPPOCAMPUS_ML * 1000)]
    pieces, _ = ndimage.label(score >= level)
    largest = np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    result = np.zeros_like(region)
    result[box] = ndimage.binary_fill_holes(pieces == largest)
    return result
