"""Second look at a head: once more without what surrounds the brain, as the first look has found it.

For classes that together make up the brain. A skull changes the intensities that a z-score sees, and what lies next to
the brain; the mean of a look with it and one without it is steadier than either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from tcurlora_seg.data.intensity import Background, scale
from tcurlora_seg.data.notes import note
from tcurlora_seg.inference.pieces import find_pieces
from tcurlora_seg.inference.windows import Predictor, probabilities

SULCI, NECKS, MARGIN = 3.0, 10.0, 3.0
"""Millimetres: half of the widest gap that is closed, half of the widest bridge that is cut, and what stays around."""
HEAD_ML = 500.0
"""A smaller brain is a part of one, which a box may show without any skull."""
RIM = 3.0
"""Millimetres around that brain in which the first look still counts: it may have missed some of the cortex."""
BARE = 0.9
"""Share of what an image shows, from which on it is a brain alone."""


def look_again(predictors: Sequence[Predictor], image: MetaTensor, found: Tensor) -> Tensor:
    """Probabilities (classes, X, Y, Z): in the brain the mean of both looks, in a rim the first, else background.

    Nothing changes where there is no whole brain, or nothing around it.

    Args:
        predictors: an ensemble.
        image: (channels, X, Y, Z), prepared by a z-score.
        found: probabilities of the first look, which are overwritten.
    """
    sizes = voxel_sizes(image.affine.numpy())
    brain = brain_of((found.argmax(0) > 0).numpy(), sizes)
    shown = (image != 0).any(0).numpy()
    bare = (brain & shown).sum() / max(shown.sum(), 1)
    if brain.sum() * sizes.prod() < 1000 * HEAD_ML or bare >= BARE:
        return found
    note("second_look", f"{1 - bare:.0%} of the image surround the brain; a second look was taken without them")
    inside, around = torch.from_numpy(brain), ~torch.from_numpy(_grown(brain, RIM, sizes))
    box = (slice(None), *ndimage.find_objects(brain.astype(np.uint8))[0])
    again = MetaTensor((image.as_tensor() * inside)[box], meta={"backgrounds": [Background(below=False)] * len(image)})
    second = probabilities(predictors, scale(again, "zscore", None))
    found[box] = torch.where(inside[box[1:]], (found[box] + second) / 2, found[box])
    found[0, around], found[1:, around] = 1.0, 0.0
    return found


def brain_of(found: NDArray[np.bool_], sizes: Sequence[float]) -> NDArray[np.bool_]:
    """Largest solid piece (X, Y, Z) of what was found, with its gaps and holes filled; empty if there is none.

    Args:
        found: (X, Y, Z).
        sizes: of the voxels, mm.
    """
    room = [math.ceil((SULCI + NECKS + MARGIN) / size) for size in sizes]
    mask = np.pad(found, [(n, n) for n in room], mode="edge")  # the brain goes on where the image ends
    mask = ndimage.binary_fill_holes(_shrunk(_grown(mask, SULCI, sizes), SULCI, sizes))
    pieces, voxels = find_pieces(_shrunk(mask, NECKS, sizes))
    if len(voxels) == 0:
        return np.zeros_like(found)
    return _grown(pieces == voxels.argmax() + 1, NECKS + MARGIN, sizes)[tuple(slice(n, -n) for n in room)]


def _grown(mask: NDArray[np.bool_], mm: float, sizes: Sequence[float]) -> NDArray[np.bool_]:
    """With all voxels up to a distance from the mask; without any mask there is none."""
    return ndimage.distance_transform_edt(~mask, sampling=sizes) <= mm if mask.any() else mask


def _shrunk(mask: NDArray[np.bool_], mm: float, sizes: Sequence[float]) -> NDArray[np.bool_]:
    """Without all voxels up to a distance from the rest."""
    return ndimage.distance_transform_edt(mask, sampling=sizes) > mm
