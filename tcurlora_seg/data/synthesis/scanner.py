"""Scanner of the synthesised images: coil, thick slices, noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from tcurlora_seg.data.simulate.splines import Axes, Spline, corners
from tcurlora_seg.randomness import uniform


def texture(axes: Axes, g: Generator) -> Tensor:
    """Noise (X, Y, Z) of deviation 1, partly from voxel to voxel and partly in spots of 3 to 8 mm.

    Args:
        axes: positions of the voxels, mm.
        g: source of the draw.
    """
    share = uniform(g, 0.2, 0.8)
    spots = Spline.draw(g, *corners(axes), knot=uniform(g, 3, 8), deviation=share**0.5, channels=1)(axes)[0]
    return spots + (1 - share) ** 0.5 * torch.randn(spots.shape, generator=g)


def bias_field(axes: Axes, deviation: float, g: Generator) -> Tensor:
    """Factor (X, Y, Z) around 1 that varies over 40 to 100 mm.

    Args:
        axes: positions of the voxels, mm.
        deviation: standard deviation of its logarithm.
        g: source of the draw.
    """
    return Spline.draw(g, *corners(axes), knot=uniform(g, 40, 100), deviation=deviation, channels=1)(axes)[0].exp()


def acquire(ideal: Tensor, thickness: Sequence[float], blur: float, noise: float, g: Generator) -> Tensor:
    """Image measured in thicker voxels with Rician noise, and interpolated back to its grid.

    Args:
        ideal: (X, Y, Z) intensities.
        thickness: of the measured voxels along each axis, in voxels of the image; at least 1.
        blur: standard deviation of the point spread besides the thickness, in voxels of the image.
        noise: standard deviation of each of the two channels of the noise.
        g: source of the noise.
    """
    profiles = [slice_profile(n, t, blur) for n, t in zip(ideal.shape, thickness, strict=True)]
    measured = _along_axes(ideal, [down for down, _ in profiles])
    parts = torch.randn(2, *measured.shape, generator=g) * noise
    magnitude = torch.hypot(measured + parts[0], parts[1])
    return _along_axes(magnitude, [up for _, up in profiles])


def slice_profile(count: int, thickness: float, blur: float) -> tuple[Tensor, Tensor | None]:
    """Matrices of a scanner along one axis.

    Args:
        count: voxels of the image.
        thickness: of the slices, in voxels.
        blur: standard deviation of the point spread besides, in voxels.

    Returns:
        (slices, count): each slice is a mean under a Gaussian whose full width at half maximum is its thickness, and
        blurred; (count, slices): linear interpolation back, None where there are as many slices as voxels.
    """
    slices = max(1, round(count / thickness))
    place = torch.arange(count, dtype=torch.float32)
    centre = (torch.arange(slices) + 0.5) * (count / slices) - 0.5
    sigma = (blur**2 + (thickness / 2.355 if slices < count else 0.0) ** 2) ** 0.5
    down = torch.exp(-0.5 * ((place - centre[:, None]) / max(sigma, 0.2)) ** 2)
    down /= down.sum(1, keepdim=True)
    if slices == count:
        return down, None
    distance = (place[:, None] - centre).abs() / (count / slices)
    up = (1 - distance).clamp(min=0)
    return down, up / up.sum(1, keepdim=True)


def _along_axes(image: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """The (X, Y, Z) image with a matrix applied along each axis; None leaves an axis as it is."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            image = (image.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return image
