"""Pictures in the proportions of the body that show which class is where."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from tcurlora_seg.evaluation.overlay import COLOURS, overlay_figure, slices_of


def figure(prediction_is: int = 1) -> Figure:
    """A structure of class 1 that is predicted as another."""
    image, label = np.random.default_rng(0).random((6, 7, 8)), np.zeros((6, 7, 8), np.uint8)
    label[2:4, 2:5, 3:6] = 1
    return overlay_figure(
        slices_of(image, label, label * prediction_is, (1.0, 2.0, 5.0)), title="case",
        structures={"whole": (1, 2), "core": (1,), "rim": (2,)}, dice={"whole": 1.0, "core": 0.25, "rim": None},
    )  # fmt: skip


def test_every_plane_has_the_proportions_of_its_voxels() -> None:
    assert [axes.get_aspect() for axes in figure().axes] == [2.5, 5.0, 2.0]


def test_a_wrong_class_has_another_colour_than_the_reference() -> None:
    for predicted in (1, 2):
        reference, prediction = figure(predicted).axes[0].collections
        assert to_hex(reference.get_edgecolor()[0]) == COLOURS[0]
        assert to_hex(prediction.get_edgecolor()[0]) == COLOURS[predicted - 1]
        assert reference.get_linestyle()[0][1] is None and prediction.get_linestyle()[0][1] is not None  # dashes


def test_the_legend_gives_the_dice_of_every_structure_and_the_edges_name_the_sides() -> None:
    (legend,) = figure().legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "whole, Dice 1.000", "core, Dice 0.250", "rim", "reference", "prediction",
    ]  # fmt: skip
    sides = [[text.get_text() for text in axes.texts] for axes in figure().axes]
    assert sides == [["P", "A", "I", "S"], ["L", "R", "I", "S"], ["L", "R", "P", "A"]]


def test_of_many_structures_the_worst_are_named() -> None:
    volume = np.zeros((4, 4, 4), np.uint8)
    drawn = overlay_figure(
        slices_of(volume.astype(float), volume, volume, (1.0, 1.0, 1.0)), title="case",
        structures={f"s{i}": (i + 1,) for i in range(56)}, dice={f"s{i}": 1 - i / 100 for i in range(56)},
    )  # fmt: skip
    names = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert len(names) == 12 and names[0] == "s55, Dice 0.450" and names[9] == "s46, Dice 0.540"


_CONES_MISSING = {  # Machado et al. (2009), doi 10.1109/TVCG.2009.113, severity 1; on linear RGB
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "long": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "middle": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "short": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


@pytest.mark.parametrize("missing", _CONES_MISSING)
def test_colours_are_told_apart_by_colour_blind_eyes(missing: str) -> None:
    seen = [_lab(np.array(_CONES_MISSING[missing]) @ _linear(colour)) for colour in COLOURS]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 32


def _linear(colour: str) -> np.ndarray:
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ linear.clip(0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
