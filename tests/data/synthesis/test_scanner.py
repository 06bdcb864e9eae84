from __future__ import annotations

import pytest
import torch

from tcurlora_seg.data.synthesis.scanner import acquire, bias_field, slice_profile, texture
from tcurlora_seg.randomness import generator

AXES = [torch.arange(40.0)] * 3


@pytest.mark.parametrize("thickness", [1.0, 1.7, 4.0])
def test_a_uniform_image_stays_as_it_is_in_slices_of_any_thickness(thickness: float) -> None:
    image = acquire(torch.full((20, 21, 22), 0.7), [1.0, 1.0, thickness], 0.5, 0.0, generator("s"))
    torch.testing.assert_close(image, torch.full((20, 21, 22), 0.7))


def test_thick_slices_blur_along_their_axis_alone() -> None:
    image = torch.zeros(24, 24, 24)
    image[12, 12, 12] = 1.0
    seen = acquire(image, [1.0, 1.0, 4.0], 0.3, 0.0, generator("s"))
    reach = [int((seen.amax(other) > 0.02 * seen.max()).sum()) for other in ((1, 2), (0, 2), (0, 1))]
    assert reach[0] == reach[1] <= 3 and reach[2] >= 7


def test_a_slice_profile_is_a_mean_and_back_again() -> None:
    down, up = slice_profile(30, 3.0, 0.5)
    assert up is not None and down.shape == (10, 30) and up.shape == (30, 10)
    for matrix in (down, up):
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))
    assert slice_profile(30, 1.0, 0.5)[1] is None


def test_noise_in_air_is_above_zero_and_of_the_size_that_is_asked_for() -> None:
    air = acquire(torch.zeros(32, 32, 32), [1.0, 1.0, 1.0], 0.3, 0.05, generator("s"))
    assert float(air.min()) > 0
    assert float((air**2).mean() ** 0.5) == pytest.approx(0.05 * 2**0.5, rel=0.05)  # Rician


def test_texture_has_deviation_one_and_a_bias_field_lies_around_one() -> None:
    drawn = torch.stack([texture(AXES, generator("t", k)) for k in range(6)])
    assert float(drawn.std()) == pytest.approx(1.0, rel=0.15) and abs(float(drawn.mean())) < 0.1
    field = bias_field(AXES, 0.3, generator("b"))
    step = max(float(field.diff(dim=axis).abs().max()) for axis in range(3))
    assert float(field.min()) > 0.2 and float(field.max()) < 4 and step < 0.1
