"""Scanner of the simulated cohorts: contrast, bias field, blur and Rician noise."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tcurlora_seg.data.simulate.head import Head
from tcurlora_seg.data.simulate.splines import Axes, Spline
from tcurlora_seg.randomness import uniform

LIQUOR, GREY, WHITE = 35.0, 82.0, 104.0
"""T1 intensities of the three tissues in the head."""

CONTRASTS = {  # range of the intensity of liquor, grey and white matter; white matter of a T1 image is 1
    "t1": ((0.22, 0.42), (0.68, 0.84), (1.0, 1.0)),
    "t1ce": ((0.22, 0.42), (0.70, 0.86), (1.0, 1.0)),
    "t2": ((1.45, 1.75), (0.90, 1.05), (0.62, 0.76)),
    "flair": ((0.18, 0.35), (0.92, 1.08), (0.76, 0.88)),
}


def contrast(t1: Tensor, modality: str, g: Generator) -> Tensor:
    """Intensities of a modality: piecewise linear in the head's T1 through liquor, grey and white matter.

    Args:
        t1: T1 intensities.
        modality: a key of `CONTRASTS`.
        g: source of the draw.
    """
    liquor, grey, white = (uniform(g, *bounds) for bounds in CONTRASTS[modality])
    darker = (t1.clamp(LIQUOR, GREY) - LIQUOR) * ((grey - liquor) / (GREY - LIQUOR))
    brighter = (t1.clamp(GREY, WHITE + 8) - GREY) * ((white - grey) / (WHITE - GREY))
    return liquor + darker + brighter


def head_contrast(t1: Tensor, g: Generator) -> Tensor:
    """T1 intensities of a head with its skull.

    They are as of `contrast` between liquor and white matter, go down to 0 in air and on to fat, which is about twice
    as bright as white matter.
    """
    air = (t1 / LIQUOR).clamp(max=1)
    return contrast(t1, "t1", g) * air + (t1 - WHITE - 8).clamp(min=0) / WHITE


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; under 0.2 voxels nothing is done.

    Args:
        image: (X, Y, Z).
        sigma: standard deviation, voxels.
    """
    if sigma < 0.2:
        return image
    for axis in range(3):
        place = torch.arange(image.shape[axis], dtype=torch.float32)
        steps = place - place[:, None]
        kernel = torch.exp(-0.5 * (steps / sigma) ** 2) * (steps.abs() <= 4 * sigma)
        kernel /= kernel[len(kernel) // 2].sum()
        image = (image.movedim(axis, -1) @ kernel).movedim(-1, axis)  # dense, and faster than a convolution
    return image


def scan(image: Tensor, inside: Tensor, axes: Axes, head: Head, g: Generator) -> Tensor:
    """One scan of an ideal image: bias field, blur, Rician noise; exactly 0 outside a mask.

    Args:
        image: (X, Y, Z), white matter of a T1 image 1.
        inside: mask, mostly the brain.
        axes: of the grid, mm.
        head: in whose box the bias field lies.
        g: source of the draw.

    Returns:
        (X, Y, Z) int16, white matter of a T1 image around 700; at least 1 inside the mask.
    """
    spacing = abs(float(axes[0][1] - axes[0][0]))
    bias = Spline.draw(g, head.low, head.high, knot=70.0, deviation=uniform(g, 0.02, 0.09), channels=1)
    image = blur(image * torch.exp(bias(axes)[0]), uniform(g, 0.0, 0.8) / spacing)
    signal = image[inside]
    noise = torch.randn(2, len(signal), generator=g) * uniform(g, 0.01, 0.04)
    magnitude = torch.hypot(signal + noise[0], noise[1]) * uniform(g, 600, 800)
    result = torch.zeros(image.shape, dtype=torch.int16)
    result[inside] = magnitude.clamp(1, 32000).to(torch.int16)
    return result
