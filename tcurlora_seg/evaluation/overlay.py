"""Overlays: image, reference and prediction in three planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

COLOURS = ("#6dffff", "#c49500", "#beff87", "#ffec13", "#d9529c", "#ff295d", "#aa90ff")
"""One a class, in turn. Any two differ by 32 or more in CIE L*a*b*, also to eyes that lack one kind of cones."""
_PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
_MOST_NAMED = 10


@dataclass(frozen=True)
class Slices:
    """Slices of a case in three planes, small enough to keep until it is known which cases to draw.

    Attributes:
        planes: name, axis, index and aspect of each, with its image, reference and prediction.
        limits: intensities of black and white.
    """

    planes: list[tuple[str, int, int, float, list[NDArray[Any]]]]
    limits: tuple[float, float]


def slices_of(
    image: NDArray[np.floating],
    reference: NDArray[np.integer],
    prediction: NDArray[np.integer],
    spacing: Sequence[float],
) -> Slices:
    """Slices with most of the reference, or of the prediction where the reference is empty.

    Args:
        image: (X, Y, Z) in RAS order; the left of the picture is the subject's left.
        reference: class indices (X, Y, Z).
        prediction: class indices (X, Y, Z).
        spacing: voxel size in mm, for the aspect.
    """
    target = reference if reference.any() else prediction
    inside = image != 0  # a z-score leaves the background at 0, which would be grey
    low, high = np.percentile(image[inside] if inside.any() else image, [0.5, 99.5])
    planes = []
    for name, axis in _PLANES:
        across, up = (i for i in range(3) if i != axis)
        index = int((target > 0).sum(axis=(across, up)).argmax()) if target.any() else image.shape[axis] // 2
        shown = [np.take(volume, index, axis).T.copy() for volume in (image, reference, prediction)]
        shown[0][shown[0] == 0] = low
        planes.append((name, axis, index, spacing[up] / spacing[across], shown))
    return Slices(planes, (float(low), max(float(high), float(low) + 1e-6)))


def overlay_figure(
    slices: Slices, *, title: str, structures: Mapping[str, Sequence[int]], dice: Mapping[str, float | None]
) -> Figure:
    """Figure of slices with the outlines of every class: the reference solid, the prediction dashed, in one colour.

    Args:
        slices: of a case.
        title: the line above the picture.
        structures: scored structure -> class indices whose union it is, for the legend.
        dice: by structure; of more than ten the legend names the worst.
    """
    figure = Figure(figsize=(12, 4.8), facecolor="black", layout="constrained")
    low, high = slices.limits
    for axes, (name, axis, index, aspect, planes) in zip(figure.subplots(1, 3), slices.planes, strict=True):
        axes.imshow(planes[0], cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
        for plane, style in ((planes[1], "solid"), (planes[2], "dashed")):
            for value in np.unique(plane[plane > 0]):
                axes.contour(plane == value, levels=[0.5], colors=_colour(value), linewidths=1.5, linestyles=style)
        axes.set_title(f"{name}, slice {index}", color="white", fontsize=10)
        axes.set_axis_off()
        _name_sides(axes, *(ends for i, ends in enumerate(_ENDS) if i != axis))
    figure.suptitle(title, color="white", fontsize=12)
    figure.legend(handles=_legend(structures, dice), loc="outside lower center", ncols=6, frameon=False,
                  labelcolor="white", fontsize=9)  # fmt: skip
    return figure


def _colour(value: int) -> str:
    return COLOURS[(int(value) - 1) % len(COLOURS)]


def _name_sides(axes: Axes, horizontal: Sequence[str], vertical: Sequence[str]) -> None:
    """Name the subject's sides at the edges."""
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.03), (0.5, 0.97))
    for (x, y), letter in zip(places, (*horizontal, *vertical), strict=True):
        text = axes.text(x, y, letter, transform=axes.transAxes, color="white", fontsize=10, ha="center", va="center")
        text.set_path_effects([withStroke(linewidth=2.5, foreground="black")])


def _legend(structures: Mapping[str, Sequence[int]], dice: Mapping[str, float | None]) -> list[Line2D]:
    """Entries of the structures with their Dice, white for a union of classes, and of the line styles."""
    named = list(structures)
    if len(named) > _MOST_NAMED:
        scores = {name: 2.0 if (score := dice.get(name)) is None else score for name in named}
        named = sorted(named, key=scores.__getitem__)[:_MOST_NAMED]
    lines = []
    for name in named:
        score, classes = dice.get(name), structures[name]
        colour = _colour(classes[0]) if len(classes) == 1 else "white"
        lines.append(Line2D([], [], color=colour, label=name if score is None else f"{name}, Dice {score:.3f}"))
    lines.append(Line2D([], [], color="silver", linestyle="solid", label="reference"))
    lines.append(Line2D([], [], color="silver", linestyle="dashed", label="prediction"))
    return lines
