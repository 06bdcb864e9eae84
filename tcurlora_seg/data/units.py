"""Units of length in NIfTI headers.

A bundle carries a copy of this file, since MONAI takes every header for one in mm.
"""

from __future__ import annotations

from typing import Any

_OTHER = {1: ("metres", 1000.0), 3: ("microns", 0.001)}


def unit(xyzt_units: int) -> tuple[str, float]:
    """A header's unit of length and how many mm it is; mm for all that a header cannot say."""
    return _OTHER.get(int(xyzt_units) & 7, ("mm", 1.0))


def to_millimetres(image: Any) -> Any:
    """A MONAI MetaTensor with its affine in mm."""
    return _scaled(image, unit(image.meta.get("xyzt_units", 0))[1])


def to_own_unit(image: Any) -> Any:
    """A MONAI MetaTensor with its affine in its header's unit again."""
    return _scaled(image, 1 / unit(image.meta.get("xyzt_units", 0))[1])


def _scaled(image: Any, factor: float) -> Any:
    affine = image.affine.clone()
    affine[:3] *= factor
    image.affine = affine
    return image
