"""Where in a volume sliding windows are worth their time: the box around the brain."""

from __future__ import annotations

from torch import Tensor

Box = tuple[slice, slice, slice]


def brain_box(image: Tensor) -> Box:
    """The smallest box that holds every voxel of (channels, X, Y, Z) that differs from 0, the prepared background.

    Nothing is lost outside it: windows are padded with 0, which is what lies there. The whole volume if it is empty.
    """
    inside = (image != 0).any(0)
    box = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        where = inside.any(others[1]).any(others[0]).nonzero().flatten().tolist()
        box.append(slice(where[0], where[-1] + 1) if where else slice(0, inside.shape[axis]))
    return box[0], box[1], box[2]

