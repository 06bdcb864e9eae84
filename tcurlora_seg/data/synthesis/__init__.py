"""Images synthesised from label maps, so that a network learns anatomy whatever the contrast.

After Billot et al., "SynthSeg", Medical Image Analysis 86 (2023) 102789, and with small fields of view besides whole
heads. Every image is a pure function of a label map and a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tcurlora_seg.errors import UserError

COARSE = (0.8, 2.0)
"""Smallest and largest voxel size of coarse windows, mm."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """Options of the images that `draw` makes of a label map. Nothing heavy is imported here.

    Attributes:
        t1_like: share of the images whose contrast is like T1; the others have any.
        with_skull: share of the images that show what lies around the brain.
        focus: values of the structures that many windows are drawn at.
        near_focus: share of those windows; the others lie anywhere.
        small_field: share of those in which the scanner saw no more than a small box.
        field_mm: smallest and largest side of that box, along right, front and top.
        coarse: share of the windows with voxels of 0.8 to 2 mm; the others have 1 mm.
        rotation: largest angle about each axis, radians.
        scale: sizes are multiplied by exp(± scale) along each axis.
        shear: largest off-diagonal element of the shear.
        bend_mm: largest standard deviation of the displacement.
        bias: largest standard deviation of the logarithm of the bias field.
        noise: largest standard deviation of the noise, where white matter of a T1 is 1.
        gamma: standard deviation of the logarithm of the exponent.

    Raises:
        UserError: a share outside 0 to 1, a strength below 0, sides that are no ranges.
    """

    t1_like: float = 0.65
    with_skull: float = 0.5
    focus: Sequence[int] = (17, 53)
    near_focus: float = 0.45
    small_field: float = 0.8
    field_mm: Sequence[Sequence[float]] = ((28, 46), (36, 62), (26, 48))
    coarse: float = 0.2
    rotation: float = 0.3
    scale: float = 0.2
    shear: float = 0.1
    bend_mm: float = 3.0
    bias: float = 0.3
    noise: float = 0.06
    gamma: float = 0.3

    def __post_init__(self) -> None:
        for name in ("t1_like", "with_skull", "near_focus", "small_field", "coarse"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"dataset.synthesis.{name}={getattr(self, name)}: expected a share from 0 to 1")
        for name in ("rotation", "scale", "shear", "bend_mm", "bias", "noise", "gamma"):
            if getattr(self, name) < 0:
                raise UserError(f"dataset.synthesis.{name}={getattr(self, name)}: expected at least 0")
        if len(self.field_mm) != 3 or not all(len(s) == 2 and 0 < s[0] <= s[1] for s in self.field_mm):
            raise UserError(f"dataset.synthesis.field_mm={self.field_mm}: expected [smallest, largest] for three axes")
