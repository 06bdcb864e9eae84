"""Augmentation: the random part of a training sample; every draw comes from a generator made for that one sample.

`Augmentation` is the paper's: crop, mirror, scale and shift of the intensities. `strong.StrongAugmentation` adds what
the field uses for few training cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

from tcurlora_seg.data.augmentation.crop import check_crops, cut, place_crop, target_voxel
from tcurlora_seg.data.augmentation.spatial import mirror
from tcurlora_seg.randomness import uniform


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crops of a prepared volume, mirrored, scaled and shifted; in RAS order.

    Attributes:
        foreground: share of the crops that contain a voxel of the target, drawn evenly over its classes; null draws
            all crops uniformly, as the paper does.
        mirror_axes: axes (0 left-right, 1 back-front, 2 down-up), each mirrored half of the time.
        scale: x is multiplied by 1 ± scale, one draw per volume.
        shift: ± shift is added, one draw per volume.

    Raises:
        UserError: a share or an axis out of range.
    """

    foreground: float | None = 0.5
    mirror_axes: Sequence[int] = (0, 1, 2)
    scale: float = 0.1
    shift: float = 0.1

    def __post_init__(self) -> None:
        check_crops(self.foreground, self.mirror_axes)

    def __call__(
        self,
        image: Tensor,
        label: Tensor,
        spots: Sequence[Tensor],
        *,
        crop: Sequence[int],
        mirror_pairs: Sequence[tuple[int, int]],
        g: Generator,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> tuple[Tensor, Tensor]:
        """One random sample of a volume.

        Args:
            image: (C, X, Y, Z) float32.
            label: (1, X, Y, Z) uint8.
            spots: flat voxel indices of every class that is there, see `foreground_spots`.
            crop: size of the result; a smaller volume is padded with 0 all around.
            mirror_pairs: classes to exchange when axis 0 is mirrored.
            g: source of every draw.
            spacing: voxel size in mm, for augmentations that need it; this one does not.

        Returns:
            image (C, *crop) float32 and label (1, *crop) uint8, copies.
        """
        size = image.shape[1:]
        voxel = target_voxel(spots, size, self.foreground, g)
        corner = place_crop(size, crop, voxel, g, centred=True)
        image, label = mirror(cut(image, corner, crop), cut(label, corner, crop), self.mirror_axes, mirror_pairs, g)
        factor, offset = (strength * (2 * uniform(g) - 1) for strength in (self.scale, self.shift))
        return image * (1 + factor) + offset, label
