"""The random part: crop, mirror, scale and shift, every draw from a generator made for that one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crops of a prepared volume, in RAS order.

    Attributes:
        foreground: share of the crops that contain a voxel of the target, drawn evenly over its classes; null draws
            all crops uniformly, as the paper does.
        mirror_axes: axes (0 left-right, 1 back-front, 2 down-up), each mirrored half of the time.
        scale: x is multiplied by 1 ± scale, one draw per volume.
        shift: ± shift is added, one draw per volume.
    """

    foreground: float | None = 0.5
    mirror_axes: Sequence[int] = (0, 1, 2)
    scale: float = 0.1
    shift: float = 0.1

    def __post_init__(self) -> None:
        if self.foreground is not None and not 0 <= self.foreground <= 1:
            raise UserError(f"augmentation.foreground={self.foreground}: expected a share from 0 to 1, or null")
        if not set(self.mirror_axes) <= {0, 1, 2}:
            raise UserError(f"augmentation.mirror_axes={list(self.mirror_axes)}: expected some of 0, 1, 2")

    def __call__(
        self,
        image: Tensor,
        label: Tensor,
        spots: Sequence[Tensor],
        *,
        crop: Sequence[int],
        mirror_pairs: Sequence[tuple[int, int]],
        g: Generator,
    ) -> tuple[Tensor, Tensor]:
        """One random sample of a volume.

        Args:
            image: (C, X, Y, Z) float32.
            label: (1, X, Y, Z) uint8.
            spots: flat voxel indices of every class that is there, see `foreground_spots`.
            crop: size of the result; a smaller volume is padded with 0 all around.
            mirror_pairs: classes to exchange when axis 0 is mirrored.
            g: source of every draw.

        Returns:
            image (C, *crop) float32 and label (1, *crop) uint8, copies.
        """
        import torch

        def draw() -> float:
            return float(torch.rand((), generator=g))

        size = image.shape[1:]
        towards = None
        if self.foreground is not None and draw() < self.foreground and spots:
            indices = spots[int(draw() * len(spots))]
            towards = torch.unravel_index(indices[int(draw() * len(indices))].long(), size)
        corner = []
        for axis, (n, c) in enumerate(zip(size, crop, strict=True)):
            low, high = min(0, n - c), max(0, n - c)
            if n <= c:
                corner.append(low // 2)
            elif towards is None:
                corner.append(int(draw() * (high + 1)))
            else:  # any place of the crop that keeps the voxel in it
                voxel = int(towards[axis])
                first, last = max(0, voxel - c + 1), min(high, voxel)
                corner.append(first + int(draw() * (last - first + 1)))
        image, label = cut(image, corner, crop), cut(label, corner, crop)
        flips = [axis for axis in self.mirror_axes if draw() < 0.5]
        if flips:
            image, label = (x.flip([axis + 1 for axis in flips]) for x in (image, label))
        if 0 in flips and mirror_pairs:
            label = swap(label, mirror_pairs)
        factor, offset = (size * (2 * draw() - 1) for size in (self.scale, self.shift))
        return image * (1 + factor) + offset, label


def cut(volume: Tensor, corner: Sequence[int], crop: Sequence[int]) -> Tensor:
    """A copy of (C, *crop) voxels from `corner` on; what lies outside the volume is 0."""
    result = volume.new_zeros((volume.shape[0], *crop))
    source, target = [slice(None)], [slice(None)]
    for start, length, n in zip(corner, crop, volume.shape[1:], strict=True):
        low, high = max(start, 0), min(start + length, n)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    result[tuple(target)] = volume[tuple(source)]
    return result


def swap(label: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Exchange the two classes of every pair."""
    import torch

    table = torch.arange(256, dtype=label.dtype)
    for a, b in pairs:
        table[a], table[b] = b, a
    return table[label.long()]


def foreground_spots(label: Tensor) -> list[Tensor]:
    """Flat int32 indices of the voxels of every class above 0 that occurs in (1, X, Y, Z)."""
    import torch

    flat = label.flatten()
    inside = torch.nonzero((flat > 0) & (flat != IGNORED)).flatten()
    classes = flat[inside]
    return [inside[classes == value].to(torch.int32) for value in torch.unique(classes)]
