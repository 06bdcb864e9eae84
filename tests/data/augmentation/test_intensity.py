"""Changes of intensity: each does what it says to the mean, the spread or the sharpness, on any scale."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg.data.augmentation import intensity
from tcurlora_seg.randomness import generator

X = torch.randn(20, 24, 18, generator=torch.Generator().manual_seed(0))
X[:5] = 0
INSIDE = X != 0


def test_mean_and_spread_are_those_inside() -> None:
    mean, std = intensity.moments(X, INSIDE)
    assert mean == pytest.approx(float(X[INSIDE].mean()), abs=1e-6)
    assert std == pytest.approx(float(X[INSIDE].std(correction=0)), rel=1e-5)
    assert intensity.limits(X, INSIDE) == (float(X[INSIDE].min()), float(X[INSIDE].max()))


def test_gamma_keeps_mean_and_spread_and_the_order_of_the_intensities() -> None:
    y = intensity.gamma(X, INSIDE, 1.5)
    assert intensity.moments(y, INSIDE) == pytest.approx(intensity.moments(X, INSIDE), abs=1e-5)
    order = X[INSIDE].argsort()
    assert (y[INSIDE][order].diff() >= 0).all()
    assert float((y - X)[INSIDE].abs().max()) > 0.3
    torch.testing.assert_close(intensity.gamma(X, INSIDE, 1.0)[INSIDE], X[INSIDE], rtol=1e-4, atol=1e-4)


def test_contrast_and_brightness_change_spread_and_mean_alone() -> None:
    mean, std = intensity.moments(X, INSIDE)
    assert intensity.moments(intensity.contrast(X, INSIDE, 1.2), INSIDE) == pytest.approx((mean, 1.2 * std), abs=1e-5)
    y = intensity.brightness(100 * X, INSIDE, 0.5)  # a scale of hundreds as well as z-scores
    assert intensity.moments(y, INSIDE) == pytest.approx((100 * (mean + 0.5 * std), 100 * std), rel=1e-4)


def test_a_bias_field_is_smooth_and_leaves_the_smallest_value() -> None:
    y = intensity.bias_field(X, INSIDE, 0.3, generator(0))
    low = intensity.limits(X, INSIDE)[0]
    assert intensity.limits(y, INSIDE)[0] == pytest.approx(low)
    kept = INSIDE & ((X - low) > 1e-3)
    log = torch.where(kept, ((y - low) / (X - low)).log(), torch.nan)[5:]
    assert 0.05 < float(log.nan_to_num().abs().mean()) < 1.0
    assert float(log.diff(dim=0).nan_to_num().abs().max()) < 0.25


def test_blur_and_low_resolution_keep_a_constant_and_lower_the_detail() -> None:
    flat, detail = torch.full((12, 12, 12), 3.0), X[5:]
    for change in (lambda x: intensity.blur(x, 1.0), lambda x: intensity.low_resolution(x, (2.0, 1.5, 1.0))):
        torch.testing.assert_close(change(flat)[4:-4, 4:-4, 4:-4], flat[4:-4, 4:-4, 4:-4], rtol=2e-3, atol=0)
        assert change(detail).shape == detail.shape
        assert float(change(detail)[4:-4, 4:-4, 4:-4].std()) < 0.7 * float(detail.std())
    torch.testing.assert_close(intensity.low_resolution(detail, (1.0, 1.0, 1.0)), detail)


def test_noise_has_its_strength_in_the_spread_of_the_image() -> None:
    y = intensity.noise(50 * X, INSIDE, 0.2, generator(0)) - 50 * X
    assert float(y.std()) == pytest.approx(0.2 * 50 * intensity.moments(X, INSIDE)[1], rel=0.05)


def test_an_even_channel_stays_finite() -> None:
    even = torch.full((6, 6, 6), 2.0)
    inside = even != 0
    for y in (intensity.gamma(even, inside, 1.4), intensity.contrast(even, inside, 1.2),
              intensity.brightness(even, inside, 0.2), intensity.bias_field(even, inside, 0.3, generator(0)),
              intensity.noise(even, inside, 0.2, generator(0))):  # fmt: skip
        torch.testing.assert_close(y, even, rtol=0, atol=1e-4)
