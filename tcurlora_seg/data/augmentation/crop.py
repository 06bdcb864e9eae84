"""Crop placement: uniform, or around a voxel of the target; a volume smaller than the crop is placed in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import uniform


def check_crops(foreground: float | None, mirror_axes: Sequence[int]) -> None:
    """Check of the arguments that all augmentations share.

    Args:
        foreground: share of the crops that contain a voxel of the target, or None.
        mirror_axes: axes to mirror.

    Raises:
        UserError: a share outside 0 to 1, or an axis that there is not.
    """
    if foreground is not None and not 0 <= foreground <= 1:
        raise UserError(f"augmentation.foreground={foreground}: expected a share from 0 to 1, or null")
    if not set(mirror_axes) <= {0, 1, 2}:
        raise UserError(f"augmentation.mirror_axes={list(mirror_axes)}: expected some of 0, 1, 2")


def target_voxel(
    spots: Sequence[Tensor], size: Sequence[int], foreground: float | None, g: Generator
) -> list[int] | None:
    """A voxel that the crop shall contain, drawn evenly over the classes; None for a crop that may lie anywhere.

    Args:
        spots: see `foreground_spots`.
        size: of the volume.
        foreground: share of the crops that contain a voxel of the target; None for no draw at all.
        g: source of the draw.
    """
    if foreground is None or not (uniform(g) < foreground and spots):
        return None
    indices = spots[int(uniform(g) * len(spots))]
    index = indices[int(uniform(g) * len(indices))].long()
    return [int(i) for i in torch.unravel_index(index, tuple(size))]


def place_crop(
    size: Sequence[int], crop: Sequence[int], voxel: Sequence[int] | None, g: Generator, *, centred: bool
) -> list[int]:
    """First voxel of a crop; negative along an axis where the volume is smaller than the crop.

    Args:
        size: of the volume.
        crop: its size.
        voxel: that the crop must contain; None for any place.
        g: source of the draw.
        centred: put a volume that is smaller than the crop into its middle, instead of anywhere in it.
    """
    corner = []
    for axis, (n, c) in enumerate(zip(size, crop, strict=True)):
        low, high = min(0, n - c), max(0, n - c)
        if n <= c and centred:
            corner.append(low // 2)
            continue
        if n > c and voxel is not None:
            low, high = max(0, voxel[axis] - c + 1), min(high, voxel[axis])
        corner.append(low + int(uniform(g) * (high - low + 1)))
    return corner


def cut(volume: Tensor, corner: Sequence[int], crop: Sequence[int]) -> Tensor:
    """A crop, copied; 0 outside the volume.

    Args:
        volume: (C, X, Y, Z).
        corner: first voxel of the crop; may be negative.
        crop: its size.
    """
    ends = [(-start, start + length - n) for start, length, n in zip(corner, crop, volume.shape[1:], strict=True)]
    return torch.nn.functional.pad(volume, [added for end in reversed(ends) for added in end])  # below 0 it cuts away


def foreground_spots(label: Tensor) -> list[Tensor]:
    """Flat int32 indices of the voxels of every class above 0 that occurs in a label (1, X, Y, Z)."""
    flat = label.flatten()
    inside = torch.nonzero((flat > 0) & (flat != IGNORED)).flatten()
    classes = flat[inside]
    return [inside[classes == value].to(torch.int32) for value in torch.unique(classes)]
