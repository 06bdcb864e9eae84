"""Heads made of label maps with FreeSurfer's values, so that a simulated cohort shows many anatomies."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from tcurlora_seg.data.augmentation.crop import cut
from tcurlora_seg.data.grid import turn_to
from tcurlora_seg.data.simulate.appearance import GREY, LIQUOR, WHITE, blur
from tcurlora_seg.data.simulate.head import Head, inward, real_head
from tcurlora_seg.data.synthesis.anatomy import is_brain, without_fluid
from tcurlora_seg.data.synthesis.contrast import draw_contrast
from tcurlora_seg.data.synthesis.scanner import texture
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import generator

# FreeSurfer's values -> LPBA40's id; its other structures are parts of the cortex that these maps do not tell apart
_LPBA40 = {11: 161, 50: 162, 12: 163, 51: 164, 17: 165, 53: 166, 7: 181, 8: 181, 46: 181, 47: 181, 16: 182}


def find_maps(folder: str | Path) -> list[Path]:
    """Label maps in a folder, by name.

    Raises:
        UserError: there is none.
    """
    patterns = ("[!.]*.nii.gz", "[!.]*.nii", "[!.]*.mgz")
    found = sorted(path for pattern in patterns for path in Path(folder).expanduser().glob(pattern))
    if not found:
        raise UserError(f"anatomies={folder}: expected a folder of label maps, .nii.gz, .nii or .mgz")
    return found


def head_of_map(path: Path) -> Head:
    """The head of a label map, laid on the packaged head's grid with its brain where that one's is.

    Its T1 image is one Gaussian a structure, blurred by 0.6 mm, a pure function of the file's name and voxels.

    Raises:
        UserError: unreadable, not of 1 mm, or without hippocampi.
    """
    model = real_head()
    values, affine = turn_to(*read_volume(path), np.eye(4))
    if not np.allclose(nib.affines.voxel_sizes(affine), 1, atol=0.05):
        raise UserError(f"{path}: voxels of {nib.affines.voxel_sizes(affine).round(2).tolist()} mm; expected 1 mm")
    if not (np.isin(values, 17).any() and np.isin(values, 53).any()):
        raise UserError(f"{path} has no hippocampi (values 17 and 53): is it a label map with FreeSurfer's values?")
    brain = np.argwhere(is_brain(torch.from_numpy(values.astype(np.int16))).numpy()).mean(0)
    shift = np.round(brain - (model.centre - model.low).numpy()).astype(int)
    laid = cut(torch.from_numpy(values.astype(np.int16))[None], shift.tolist(), model.labels.shape[1:])[0]

    g = generator("anatomy", path.name)
    contrast = draw_contrast([*torch.unique(laid).tolist(), 3, 4], g, t1_like=True)
    index = laid.int()
    ideal = contrast.mean[index] + contrast.deviation[index] * texture([torch.arange(float(n)) for n in laid.shape], g)
    tissue = [0.0, float(contrast.mean[4]), float(contrast.mean[3]), 1.0, 3.0]
    intensity = np.interp(blur(ideal.clamp(min=0), 0.6).numpy(), tissue, [0.0, LIQUOR, GREY, WHITE, 2 * WHITE])
    whole = torch.from_numpy(intensity.astype(np.float32))[None]
    mask = without_fluid(laid, 1.5, 0.3)[None].float()
    labels = torch.zeros(int(laid.max()) + 1)
    for value, id in _LPBA40.items():
        if value < len(labels):
            labels[value] = id
    lpba40 = labels[index]
    return Head(
        t1=whole * mask, with_skull=lambda: whole, brain=mask, labels=lpba40[None], inward=inward(lpba40.numpy()),
        low=model.low, high=model.high,
    )  # fmt: skip
