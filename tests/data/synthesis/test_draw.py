from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from heads import draw_head

from tcurlora_seg.data.synthesis import Synthesis
from tcurlora_seg.data.synthesis.anatomy import Anatomy, is_brain
from tcurlora_seg.data.synthesis.contrast import draw_contrast
from tcurlora_seg.data.synthesis.draw import draw_whole, draw_window, statistics
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import generator

SIZE = (32, 32, 32)
STILL = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "bend_mm": 0.0, "coarse": 0.0}


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return Anatomy.of(torch.from_numpy(draw_head()), [1.0, 1.0, 1.0], (17, 53))


def draw(anatomy: Anatomy, k: int, **changes: float) -> tuple[torch.Tensor, torch.Tensor]:
    return draw_window(Synthesis(**changes), anatomy, SIZE, generator("x", k))


def test_an_anatomy_knows_its_box_its_counts_and_the_middles_of_its_structures(anatomy: Anatomy) -> None:
    head = draw_head()
    assert anatomy.counts[17] == (head == 17).sum() and not anatomy.values[0].any() and anatomy.values[1].any()
    np.testing.assert_allclose(anatomy.middles[1] - anatomy.middles[0], [12, 0, 0], atol=0.05)  # from left to right
    assert (anatomy.brain[1] - anatomy.brain[0] < anatomy.head[1] - anatomy.head[0]).all()


def test_a_sample_is_a_pure_function_of_anatomy_and_generator(anatomy: Anatomy) -> None:
    (a, x), (b, y), (c, _) = (draw(anatomy, k) for k in (0, 0, 1))
    assert torch.equal(a, b) and torch.equal(x, y) and not torch.equal(a, c)


def test_an_image_shows_exactly_what_its_labels_say(anatomy: Anatomy) -> None:
    for k in range(12):
        image, values = draw(anatomy, k, noise=0.001, bias=0.0, gamma=0.0, near_focus=1.0, small_field=0.0, t1_like=1.0)
        present = [v for v in (2, 3, 41, 42) if (values == v).sum() > 200]
        means = {v: float(image[values == v].median()) for v in present}
        assert present, k
        for grey, white in ((3, 2), (42, 41)):
            if {grey, white} <= means.keys():
                assert means[grey] < means[white]
        assert not values[image == 0].any()


def test_the_middle_of_a_sample_near_the_focus_shows_the_focus(anatomy: Anatomy) -> None:
    for k in range(12):
        _, values = draw(anatomy, k, near_focus=1.0, small_field=1.0, field_mm=((28, 30),) * 3, **STILL)
        assert set(np.unique(values)) & {17, 53}


def test_a_small_field_of_view_is_a_box_of_mean_0_and_deviation_1(anatomy: Anatomy) -> None:
    for k in range(8):
        image, _ = draw(anatomy, k, near_focus=1.0, small_field=1.0, field_mm=((12, 16), (20, 24), (12, 16)), **STILL)
        inside = image[image != 0]
        sides = [int((image != 0).amax(other).sum()) for other in ((1, 2), (0, 2), (0, 1))]
        assert all(low <= side <= high for side, (low, high) in zip(sides, ((10, 16), (18, 24), (10, 16)), strict=True))
        assert abs(float(inside.mean())) < 0.02 and float(inside.std()) == pytest.approx(1.0, abs=0.02)


def test_without_its_skull_a_head_shows_the_brain_alone(anatomy: Anatomy) -> None:
    seen = {True: 0.0, False: 0.0}
    for k in range(10):
        for skull in seen:
            image, _ = draw(anatomy, k, with_skull=float(skull), near_focus=0.0, **STILL)
            options = Synthesis(with_skull=float(skull))
            whole = draw_whole(options, torch.from_numpy(draw_head()), [1.0] * 3, generator(k))
            outside = torch.from_numpy(draw_head() >= 500)
            assert bool((whole[outside] > 0).all()) if skull else not bool(whole[outside].any())
            assert not bool(whole[torch.from_numpy(draw_head() == 0)].any())
            seen[skull] += float((image != 0).float().mean())
    assert seen[True] > seen[False]


@pytest.mark.parametrize(("skull", "air"), [(False, 0.0), (True, 0.0), (True, 0.5)])
def test_statistics_by_counting_are_those_of_the_whole_head(anatomy: Anatomy, skull: bool, air: float) -> None:
    g, values = generator("s"), anatomy.values
    contrast = draw_contrast(np.unique(values).tolist(), g, t1_like=True)
    ideal = contrast.mean[values.int()] + contrast.deviation[values.int()] * torch.randn(values.shape, generator=g)
    shown = ideal[(values > 0) if skull else is_brain(values) & (values != 24)]
    shown = torch.cat([shown, torch.zeros(int(len(shown) * air / (1 - air)))])
    mean, deviation = statistics(contrast, 1.0, anatomy.counts, skull, air)
    assert mean == pytest.approx(float(shown.mean()), abs=0.01)
    assert deviation == pytest.approx(float(shown.std()), abs=0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t1_like": 1.5}, "t1_like=1.5: expected a share from 0 to 1"),
        ({"noise": -0.1}, "noise=-0.1: expected at least 0"),
        ({"field_mm": [[40, 20]] * 3}, r"field_mm=.*: expected \[smallest, largest\] for three axes"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"dataset.synthesis.{words}"):
        Synthesis(**change)
