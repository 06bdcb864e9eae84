"""Volumes of the structures of a case, and the loss by preparation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import voxel_sizes

from tcurlora_seg.data.task import Task

if TYPE_CHECKING:
    from tcurlora_seg.data.prepared import PreparedCase


def volume_text(ml: float) -> str:
    """A volume with three digits, in mm³ where ml would be small."""
    if ml >= 1000:
        return f"{ml:,.0f} ml"
    return f"{ml:.3g} ml" if ml >= 0.1 or ml == 0 else f"{1000 * ml:.3g} mm³"


def shrunken(case: PreparedCase, task: Task) -> list[str]:
    """Lines on structures that preparation makes vanish or lose over half of their volume."""
    ml = [float(np.prod(voxel_sizes(affine))) / 1000 for affine in (case.affine, case.label.affine.numpy())]
    lines = []
    for name, classes in task.structures.items():
        labels = case.native_label.numpy(), case.label.as_tensor().numpy()
        before, after = (float(np.isin(label, classes).sum()) * voxel for label, voxel in zip(labels, ml, strict=True))
        if after < before / 2:
            left = f"{volume_text(after)} of {volume_text(before)}" if after else f"nothing of {volume_text(before)}"
            lines.append(f"preparation leaves {left} of {name}: a finer dataset.preparation.spacing would keep it")
    return lines
