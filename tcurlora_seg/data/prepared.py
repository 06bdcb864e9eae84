"""A prepared case: the network's input, its label, and the way back to the file's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from tcurlora_seg.data.grid import same_grid, turn_to
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.spacing import TrainingSpacing, fitting
from tcurlora_seg.errors import UserError


class Volume(NamedTuple):
    """One volume as stored.

    Attributes:
        source: its file, for messages.
        voxels: (X, Y, Z).
        affine: (4, 4), from voxels to RAS mm.
    """

    source: str
    voxels: np.ndarray
    affine: np.ndarray


class PreparedImage:
    """Prepared image. Not a dataclass, since Lightning copies those field by field.

    Args:
        case: id of the case, or the image's name.
        image: (C, X, Y, Z) float32; it remembers how to go back to the file's grid.
        affine: (4, 4) float64, from the file's voxels to RAS mm.
        preparation: of the image; it knows the way back.
    """

    def __init__(self, *, case: str, image: MetaTensor, affine: np.ndarray, preparation: Preparation) -> None:
        self.case, self.image, self.affine, self.preparation = case, image, affine, preparation


class PreparedCase(PreparedImage):
    """Prepared image with its label.

    Args:
        patient: id of the patient.
        label: (1, X, Y, Z) uint8 class indices on the prepared grid.
        native_label: (X, Y, Z) uint8 class indices on the file's grid.
        image: see `PreparedImage`, as the rest.
    """

    def __init__(self, *, patient: str, label: MetaTensor, native_label: Tensor, **image: Any) -> None:
        super().__init__(**image)
        self.patient, self.label, self.native_label = patient, label, native_label


def prepare_image(
    channels: Sequence[Volume],
    *,
    preparation: Preparation,
    spacing: TrainingSpacing | None,
    case: str,
    mask: Volume | None = None,
) -> PreparedImage:
    """Prepared image of channels that share the grid of the first.

    Args:
        channels: in the order of the network's channels.
        preparation: of the training images.
        spacing: voxel sizes of the training images, see `fitting`; None leaves the grid to the preparation.
        case: id of the case.
        mask: brain mask; the channels become 0 where it is 0.

    Raises:
        UserError: volumes on different grids, or intensities that cannot be scaled.
    """
    affine = channels[0].affine
    fitted = fitting(preparation, spacing, affine)
    image, _ = fitted(_stack(channels, mask, channels[0], preparation, case))
    return PreparedImage(case=case, image=image, affine=affine, preparation=fitted)


def prepare_case(
    channels: Sequence[Volume],
    label: Volume,
    *,
    preparation: Preparation,
    spacing: TrainingSpacing | None,
    case: str,
    patient: str,
    mask: Volume | None = None,
    hint: str = "",
) -> PreparedCase:
    """Prepared image with its label, on whose grid it lies; see `prepare_image`.

    Args:
        channels: in the order of the network's channels.
        label: class indices, uint8.
        preparation: of the training images.
        spacing: voxel sizes of the training images, or None.
        case: id of the case.
        patient: id of the patient.
        mask: brain mask.
        hint: to be added where the grids differ.

    Raises:
        UserError: volumes on different grids, or intensities that cannot be scaled.
    """
    native, fitted = torch.from_numpy(label.voxels), fitting(preparation, spacing, label.affine)
    image, reference = fitted(
        _stack(channels, mask, label, preparation, case, hint),
        MetaTensor(native[None], affine=torch.from_numpy(label.affine)),
    )
    assert reference is not None
    return PreparedCase(
        case=case, patient=patient, image=image, label=reference, native_label=native, affine=label.affine,
        preparation=fitted,
    )  # fmt: skip


def _stack(
    channels: Sequence[Volume], mask: Volume | None, grid: Volume, preparation: Preparation, case: str, hint: str = ""
) -> MetaTensor:
    """The channels (C, X, Y, Z) float32 on one grid, cut out by the mask, their intensities checked."""
    arrays = [_on_grid(channel, grid, case, hint).astype(np.float32) for channel in channels]
    if mask is not None:
        brain = _on_grid(mask, grid, case, hint) > 0
        arrays = [array * brain for array in arrays]
    tensors = [torch.from_numpy(array) for array in arrays]
    for channel, tensor in zip(channels, tensors, strict=True):
        preparation.check(tensor, channel.source)
    return MetaTensor(torch.stack(tensors), affine=torch.from_numpy(grid.affine))


def _on_grid(volume: Volume, grid: Volume, case: str, hint: str) -> np.ndarray:
    """The voxels with their axes along the grid's.

    Raises:
        UserError: another shape or affine.
    """
    voxels, affine = turn_to(volume.voxels, volume.affine, grid.affine)
    pair = f"{volume.source} and {grid.source}"
    if voxels.shape != grid.voxels.shape or not same_grid(voxels.shape, grid.affine, affine, pair):
        raise UserError(f"case {case}: {pair} lie on different grids (shape or affine differ){hint}")
    return voxels
