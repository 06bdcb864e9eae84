"""Intensity changes of one channel (X, Y, Z), as scanners and protocols make them.

`inside` is the mask of the voxels that are not 0: a prepared volume is 0 outside the head or the field of view, and
stays so. Strengths are relative to the mean or the spread inside, so they fit z-scores and windows alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import GaussianFilter
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from tcurlora_seg.data.simulate.splines import Spline


def bias_field(x: Tensor, inside: Tensor, strength: float, g: Generator) -> Tensor:
    """Bias field of the receiver coil, low + (x − low) exp(f), with a smooth random field f.

    Args:
        x: the channel.
        inside: mask.
        strength: standard deviation of f.
        g: source of the draw.
    """
    axes = [torch.linspace(0, 1, n) for n in x.shape]
    field = Spline.draw(g, torch.zeros(3), torch.ones(3), knot=1.0, deviation=strength, channels=1)(axes)[0]
    low = limits(x, inside)[0]
    return low + (x - low) * field.exp()


def gamma(x: Tensor, inside: Tensor, exponent: float) -> Tensor:
    """Gamma correction, low + (high − low) ((x − low) / (high − low))^exponent, with the mean and the spread of x.

    Args:
        x: the channel.
        inside: mask.
        exponent: above 1 darkens what lies in the middle.
    """
    low, high = limits(x, inside)
    y = ((x - low) / (high - low)).clamp(0, 1) ** exponent
    (mean, std), (now, spread) = moments(x, inside), moments(y, inside)
    return (y - now) * (std / max(spread, 1e-8)) + mean


def contrast(x: Tensor, inside: Tensor, factor: float) -> Tensor:
    """Contrast change, mean + factor (x − mean).

    Args:
        x: the channel.
        inside: mask.
        factor: on the spread.
    """
    mean = moments(x, inside)[0]
    return mean + factor * (x - mean)


def brightness(x: Tensor, inside: Tensor, offset: float) -> Tensor:
    """Brightness change, x + offset.

    Args:
        x: the channel.
        inside: mask.
        offset: in standard deviations of x.
    """
    return x + offset * moments(x, inside)[1]


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur.

    Args:
        x: the channel.
        sigma: standard deviation, voxels.
    """
    return GaussianFilter(3, sigma, truncated=3.0)(x[None, None])[0, 0]


def low_resolution(x: Tensor, factors: Sequence[float]) -> Tensor:
    """Averages over larger voxels, interpolated back.

    Args:
        x: the channel.
        factors: how much larger the voxels are along each axis.
    """
    coarse = [max(1, round(n / f)) for n, f in zip(x.shape, factors, strict=True)]
    return interpolate(interpolate(x[None, None], size=coarse, mode="area"), size=x.shape, mode="trilinear")[0, 0]


def noise(x: Tensor, inside: Tensor, strength: float, g: Generator) -> Tensor:
    """Normal noise added.

    Args:
        x: the channel.
        inside: mask.
        strength: in standard deviations of x.
        g: source of the draw.
    """
    return x + strength * moments(x, inside)[1] * torch.randn(x.shape, generator=g)


def moments(x: Tensor, inside: Tensor) -> tuple[float, float]:
    """Mean and standard deviation inside.

    Args:
        x: the channel.
        inside: mask.
    """
    count = max(int(inside.sum()), 1)
    kept = torch.where(inside, x, 0.0)
    mean = float(kept.sum()) / count
    return mean, max(float((kept * kept).sum()) / count - mean**2, 0.0) ** 0.5


def limits(x: Tensor, inside: Tensor) -> tuple[float, float]:
    """Smallest and largest value inside; they differ, be it by a hair.

    Args:
        x: the channel.
        inside: mask.
    """
    low = float(torch.where(inside, x, torch.inf).amin())
    return low, max(float(torch.where(inside, x, -torch.inf).amax()), low + 1e-6)
