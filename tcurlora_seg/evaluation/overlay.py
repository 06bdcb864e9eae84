"""Pictures that show image, reference and prediction together, in three planes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tcurlora_seg.files import atomic_path

_PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
_REFERENCE, _PREDICTION = "#2ecc71", "#e6550d"


def overlay_figure(
    image: NDArray[np.floating],
    reference: NDArray[np.integer],
    prediction: NDArray[np.integer],
    *,
    title: str,
    spacing: Sequence[float],
) -> Figure:
    """Draw a volume with the outlines of the reference (green) and the prediction (orange).

    Args:
        image: (X, Y, Z) in RAS order, so that left of the picture is the subject's left.
        reference: class indices (X, Y, Z); each slice shown is the one with most of it.
        prediction: class indices (X, Y, Z).
        title: the line above the picture.
        spacing: voxel size in mm, for the aspect.
    """
    target = reference if reference.any() else prediction
    figure = Figure(figsize=(12, 4.6), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    inside = image != 0  # a z-score leaves the background at 0, which would be grey
    low, high = np.percentile(image[inside] if inside.any() else image, [0.5, 99.5])
    image = np.where(inside, image, low)
    for axes, (name, axis) in zip(figure.subplots(1, 3), _PLANES, strict=True):
        others = tuple(i for i in range(3) if i != axis)
        index = int((target > 0).sum(axis=others).argmax()) if target.any() else image.shape[axis] // 2
        planes = [np.take(volume, index, axis).T for volume in (image, reference, prediction)]
        aspect = spacing[others[1]] / spacing[others[0]]
        axes.imshow(planes[0], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect)
        for plane, colour in ((planes[1], _REFERENCE), (planes[2], _PREDICTION)):
            for value in np.unique(plane[plane > 0]):
                axes.contour(plane == value, levels=[0.5], colors=colour, linewidths=1.2)
        axes.set_title(f"{name}, slice {index}", color="white", fontsize=10)
        axes.set_axis_off()
    figure.suptitle(title, color="white", fontsize=12)
    figure.supxlabel("green: reference    orange: prediction", color="white", fontsize=10)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def figure_to_array(figure: Figure) -> NDArray[np.uint8]:
    """The pixels (height, width, 3) of a figure, as TensorBoard takes them."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
