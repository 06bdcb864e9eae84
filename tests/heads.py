"""A head for tests: the smallest label map with everything that a real one has."""

from __future__ import annotations

import numpy as np


def draw_head(shift: int = 0) -> np.ndarray:
    """(48, 48, 48) int16 label map in RAS: skin, bone, fluid, and a brain of two halves with a hippocampus in each."""
    x, y, z = np.meshgrid(*[np.arange(48) - 23.5] * 3, indexing="ij")
    r = np.sqrt(x**2 + y**2 + (z - shift) ** 2)
    values = np.zeros(r.shape, dtype=np.int16)
    for radius, left, right in ((22, 511, 511), (20, 515, 515), (18, 24, 24), (16, 3, 42), (13, 2, 41)):
        values[r < radius] = np.where(x < 0, left, right)[r < radius]
    hippocampi = (np.abs(x) - 6) ** 2 + (y / 1.5) ** 2 + (z - shift) ** 2 < 16
    values[hippocampi] = np.where(x < 0, 17, 53)[hippocampi]
    return values
