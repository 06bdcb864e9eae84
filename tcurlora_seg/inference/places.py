"""Places of a volume within a window that is larger.

A bundle carries a copy of this file, since MONAI places such a volume in the middle alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch


def places(shape: Sequence[int], window: Sequence[int], shift: int) -> list[list[tuple[int, int]]]:
    """Voxels before and behind a volume, by axis, for each of its places.

    The first is the middle; in the others the volume is moved along one axis, one way or the other.

    Args:
        shape: (X, Y, Z) of the volume.
        window: sides of the window; an axis on which the volume is as long or longer is left as it is.
        shift: voxels by which it is moved either way, fewer where the window has no room for them.
    """
    room = [max(side - size, 0) for size, side in zip(shape, window, strict=True)]
    middle = [(free // 2, free - free // 2) for free in room]
    found = [middle]
    for axis, free in enumerate(room):
        for before in sorted({max(free // 2 - shift, 0), min(free // 2 + shift, free)} - {free // 2}):
            found.append([*middle[:axis], (before, free - before), *middle[axis + 1 :]])
    return found


def placed(image: Any, window: Sequence[int], shift: int) -> Iterator[tuple[Any, tuple[slice, ...]]]:
    """A volume at each of its places, and where it lies there.

    Args:
        image: (..., X, Y, Z) of torch.
        window: sides of the window.
        shift: see `places`.
    """
    shape = image.shape[-3:]
    for place in places(shape, window, shift):
        margins = [side for pair in reversed(place) for side in pair]
        inside = tuple(slice(before, before + size) for (before, _), size in zip(place, shape, strict=True))
        yield torch.nn.functional.pad(image, margins) if any(margins) else image, inside
