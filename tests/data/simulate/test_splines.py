from __future__ import annotations

import torch

from tcurlora_seg.data.simulate.splines import Spline
from tcurlora_seg.randomness import generator

LOW, HIGH = torch.tensor([-50.0, -60.0, -70.0]), torch.tensor([50.0, 60.0, 70.0])


def field(knot: float = 20.0, deviation: float = 2.0) -> Spline:
    return Spline.draw(generator("test", 0), LOW, HIGH, knot=knot, deviation=deviation, channels=3)


def axes(step: float) -> list[torch.Tensor]:
    return [torch.arange(float(a), float(b) + 0.1, step) for a, b in zip(LOW, HIGH, strict=True)]


def test_a_field_is_the_definition() -> None:
    def cardinal(t: torch.Tensor) -> torch.Tensor:
        t = t.abs()
        inner = (4 - 6 * t**2 + 3 * t**3) / 6
        return torch.where(t < 1, inner, torch.where(t < 2, (2 - t) ** 3 / 6, 0.0))

    spline = field()
    points = [torch.tensor([-50.0, 3.3, 50.0]), torch.tensor([-11.0, 60.0]), torch.tensor([0.0])]
    weights = []
    for axis in range(3):
        places = torch.arange(spline.lattice.shape[axis + 1]) - 1  # the first knot lies one outside the box
        weights.append(cardinal((points[axis][:, None] - LOW[axis]) / 20.0 - places))
    expected = torch.einsum("xi,yj,zk,cijk->cxyz", *weights, spline.lattice)
    torch.testing.assert_close(spline(points), expected, rtol=1e-5, atol=1e-5)


def test_a_field_is_the_same_at_every_voxel_size_and_direction() -> None:
    spline = field()
    torch.testing.assert_close(spline(axes(2.0))[:, ::2, ::2, ::2], spline(axes(4.0)))
    turned = spline([axis.flip(0) for axis in axes(4.0)])
    torch.testing.assert_close(turned.flip(1, 2, 3), spline(axes(4.0)))


def test_the_deviation_is_about_what_was_asked_for() -> None:
    values = field(knot=10.0, deviation=2.0)(axes(2.0))
    assert 1.8 < float(values.std()) < 2.2 and abs(float(values.mean())) < 0.2


def test_derivatives_are_the_slopes_of_the_values() -> None:
    spline, step = field(), 0.5
    grid = axes(10.0)
    for axis in range(3):
        ahead, behind = (
            [a[1:-1] + sign * step / 2 if i == axis else a[1:-1] for i, a in enumerate(grid)] for sign in (1, -1)
        )
        slope = (spline(ahead) - spline(behind)) / step
        torch.testing.assert_close(spline([a[1:-1] for a in grid], derivative=axis), slope, rtol=5e-2, atol=2e-3)
