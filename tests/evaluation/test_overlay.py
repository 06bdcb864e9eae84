"""Pictures in the proportions of the body."""

from __future__ import annotations

import numpy as np

from tcurlora_seg.evaluation.overlay import overlay_figure


def test_every_plane_has_the_proportions_of_its_voxels() -> None:
    image, label = np.random.default_rng(0).random((6, 7, 8)), np.zeros((6, 7, 8), np.uint8)
    label[2:4, 2:5, 3:6] = 1
    figure = overlay_figure(image, label, label, title="case", spacing=(1.0, 2.0, 5.0))
    assert [axes.get_aspect() for axes in figure.axes] == [2.5, 5.0, 2.0]
