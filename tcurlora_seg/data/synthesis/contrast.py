"""Intensities of the structures of a label map: like T1's, or at random. Values are FreeSurfer's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from tcurlora_seg.randomness import uniform

# left value -> right value
_SIDES = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 25: 57, 26: 58,
          28: 60, 30: 62, 31: 63, 78: 79, 81: 82, 136: 137, 163: 164}  # fmt: skip
_LEFT_OF = {right: left for left, right in _SIDES.items()} | {44: 4, 5: 4, 14: 4, 15: 4, 72: 4}  # ventricles: one fluid

_LIQUOR, _GREY, _WHITE, _FLESH = (0.15, 0.40), (0.55, 0.78), (0.95, 1.04), (0.30, 1.00)
_T1 = {  # range of the mean intensity where white matter is 1
    2: (1.0, 1.0), 3: _GREY, 4: _LIQUOR, 7: (0.92, 1.04), 8: _GREY, 10: (0.78, 0.95), 11: (0.62, 0.82),
    12: (0.70, 0.88), 13: (0.86, 1.00), 16: (0.85, 1.00), 17: (0.58, 0.80), 18: (0.56, 0.78), 24: (0.15, 0.45),
    25: (0.60, 1.00), 26: (0.62, 0.82), 28: (0.84, 0.98), 30: (0.20, 1.20), 31: (0.30, 0.70), 77: (0.60, 0.90),
    78: (0.60, 0.90), 80: (0.60, 0.90), 81: (0.60, 0.90), 85: (0.80, 1.00), 136: (0.40, 1.00), 163: (0.40, 1.00),
    251: _WHITE, 252: _WHITE, 253: _WHITE, 254: _WHITE, 255: _WHITE,
    502: (0.30, 1.40), 506: (0.60, 1.40), 507: (0.30, 0.90), 508: (0.45, 0.75), 509: (0.40, 1.00), 511: (0.60, 1.60),
    512: (0.80, 1.00), 514: (0.10, 0.35), 515: (0.05, 0.35), 516: (0.40, 1.30), 530: (0.70, 1.00),
}  # fmt: skip

OUTSIDE = range(500, 600)
"""Values of what surrounds the brain and its fluid: skin, fat, bone, muscle, eyes."""


class Contrast(NamedTuple):
    """Mean and standard deviation of the intensity of every label value, as tables to be indexed by it."""

    mean: Tensor
    deviation: Tensor


def draw_contrast(values: Iterable[int], g: Generator, *, t1_like: bool) -> Contrast:
    """One Gaussian a structure, the same on the left and on the right; air (0) is 0.

    Args:
        values: label values that may occur.
        g: source of the draw.
        t1_like: means in the ranges of T1-weighted images, white matter 1; else anywhere from 0.05 to 1.
    """
    present = sorted(set(values))
    mean, deviation = torch.zeros(max(present, default=0) + 1), torch.zeros(max(present, default=0) + 1)
    drawn: dict[int, tuple[float, float]] = {}
    for value in present:
        tissue = _tissue(value)
        if tissue not in drawn:
            low, high = _T1.get(tissue, _FLESH) if t1_like else (0.05, 1.0)
            spread = (0.03, 0.20) if tissue in OUTSIDE else (0.02, 0.07 if t1_like else 0.10)
            drawn[tissue] = (uniform(g, low, high), uniform(g, *spread))
        if value:
            mean[value], deviation[value] = drawn[tissue]
    return Contrast(mean, deviation)


def _tissue(value: int) -> int:
    """The value that this one looks like: its left twin; cortex or white matter for a parcel of FreeSurfer's."""
    if 1000 <= value < 5000:
        return 3 if value < 3000 else 2
    return _LEFT_OF.get(value, value)
