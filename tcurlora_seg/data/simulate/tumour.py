"""Pseudo-tumours: necrotic core, enhancing rim and oedema, with the contrasts that the four modalities show.

Nothing grows here: the shapes are noisy ellipsoids whose level sets are chosen by volume.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tcurlora_seg.data.simulate.appearance import GREY, LIQUOR, WHITE, blur
from tcurlora_seg.data.simulate.splines import Axes, Spline, bounding_box, corners
from tcurlora_seg.randomness import uniform

NECROTIC, OEDEMA, ENHANCING = 1, 2, 4

APPEARANCE = {  # range of the intensity of necrotic core, oedema and enhancing rim; white matter of a T1 image is 1
    "t1": ((0.30, 0.50), (0.68, 0.82), (0.55, 0.80)),
    "t1ce": ((0.30, 0.50), (0.68, 0.82), (1.25, 1.70)),
    "t2": ((1.30, 1.70), (1.25, 1.55), (1.00, 1.30)),
    "flair": ((0.60, 1.10), (1.35, 1.70), (1.15, 1.45)),
}


def draw_tumour(t1: Tensor, brain: Tensor, height: Tensor, axes: Axes, g: Generator) -> Tensor:
    """Labels of a tumour in the cerebrum, in BraTS' numbers.

    The whole tumour takes 5 to 120 ml; its core, some of them with a second, smaller focus, 25 to 70 % of that. Oedema
    follows the white matter; liquor stays free.

    Args:
        t1: (X, Y, Z) T1 intensity of the head, in the subject's space.
        brain: (X, Y, Z) bool.
        height: (X, Y, Z) distance above the commissures in the head, mm: keeps centres out of the brain stem.
        axes: the grid's axes, mm.
        g: source of the draw.

    Returns:
        (X, Y, Z) uint8 of 0, 1, 2, 4.
    """
    spacing = abs(float(axes[0][1] - axes[0][0]))
    smooth = blur(t1, 2.0 / spacing)
    home = torch.nonzero(brain & (smooth > 88) & (height > -5))
    centre = home[torch.randint(len(home), (), generator=g)]
    distance = _ellipsoid(axes, centre, g, scale=1.0)
    if uniform(g, 0, 1) < 0.2:
        near = home[((home - centre).float().norm(dim=1) * spacing - 35).abs() < 15]
        if len(near):
            second = near[torch.randint(len(near), (), generator=g)]
            distance = torch.minimum(distance, _ellipsoid(axes, second, g, scale=uniform(g, 0.4, 0.7)))
    bumps = [Spline.draw(g, *corners(axes), knot=k, deviation=d, channels=2) for k, d in ((24.0, 0.22), (9.0, 0.10))]
    core_noise, rim_noise = torch.stack([b(axes) for b in bumps]).sum(0)
    white = ((smooth - GREY) / (WHITE - GREY)).clamp(0, 1)
    solid = brain & (t1 > (LIQUOR + GREY) / 2)

    whole_ml = 5.0 * (120.0 / 5.0) ** uniform(g, 0, 1)
    voxels = whole_ml * 1000 / spacing**3
    spread = distance * (1 + core_noise) * (1.35 - 0.45 * white)
    whole = _nearest(spread, solid, voxels)
    core = _nearest(distance * (1 + core_noise), whole, voxels * uniform(g, 0.25, 0.70))
    depth = distance * (1 + core_noise + 0.8 * rim_noise)
    inner = _nearest(depth, core, float(core.sum()) * uniform(g, 0.2, 0.65))
    label = torch.zeros(t1.shape, dtype=torch.uint8)
    label[whole] = OEDEMA
    label[core] = ENHANCING if uniform(g, 0, 1) > 0.08 else NECROTIC  # a few do not enhance
    label[inner] = NECROTIC
    return label


def paint(image: Tensor, label: Tensor, modality: str, axes: Axes, g: Generator) -> Tensor:
    """Ideal image of a modality with the tumour in it: soft edges, a little texture.

    Args:
        image: (X, Y, Z) without the tumour.
        label: of the tumour.
        modality: a key of `APPEARANCE`.
        axes: of the grid, mm.
        g: source of the draw.
    """
    spacing = abs(float(axes[0][1] - axes[0][0]))
    box = _around(label, spacing)
    near = [axis[s] for axis, s in zip(axes, box, strict=True)]
    texture = 1 + Spline.draw(g, *corners(near), knot=6.0, deviation=0.06, channels=1)(near)[0]
    necrotic, oedema, enhancing = APPEARANCE[modality]
    patch = image[box]
    for value, bounds, opacity in ((OEDEMA, oedema, 0.85), (ENHANCING, enhancing, 1.0), (NECROTIC, necrotic, 1.0)):
        share = opacity * blur((label[box] == value).float(), 0.6 / spacing)
        patch = patch + share * (uniform(g, *bounds) * texture - patch)
    image = image.clone()
    image[box] = patch
    return image


def smoothed(label: Tensor, spacing: float) -> Tensor:
    """Label as a program would draw it: without details under 2 mm; (X, Y, Z) uint8.

    Args:
        label: of the tumour.
        spacing: voxel size, mm.
    """
    box = _around(label, spacing)
    values = torch.tensor([0, NECROTIC, OEDEMA, ENHANCING], dtype=torch.uint8)
    shares = torch.stack([blur((label[box] == value).float(), max(2.0 / spacing, 0.7)) for value in values])
    result = torch.zeros_like(label)
    result[box] = values[shares.argmax(0)]
    return result


def _around(label: Tensor, spacing: float) -> tuple[slice, ...]:
    """The box of a tumour with 3 mm on every side."""
    margin = 1 + round(3 / spacing)
    return tuple(slice(max(0, first - margin), last + margin + 1) for first, last in bounding_box(label > 0))


def _ellipsoid(axes: Axes, centre: Tensor, g: Generator, scale: float) -> Tensor:
    """Distance from a voxel, in units of randomly turned half-axes of about `scale`."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    stretch = torch.tensor([uniform(g, 0.7, 1.4) * scale for _ in range(3)])
    metric = turn @ torch.diag(stretch**-2) @ turn.T
    x, y, z = (axis - axis[i] for axis, i in zip(axes, centre.tolist(), strict=True))
    x, y = x[:, None, None], y[:, None]
    square = metric[0, 0] * x**2 + metric[1, 1] * y**2 + metric[2, 2] * z**2
    return (square + 2 * (metric[0, 1] * x * y + metric[0, 2] * x * z + metric[1, 2] * y * z)).clamp(min=0).sqrt()


def _nearest(distance: Tensor, allowed: Tensor, voxels: float) -> Tensor:
    """The mask of the `voxels` allowed voxels with the smallest distance."""
    inside = distance[allowed]
    count = min(max(round(voxels), 1), len(inside))
    return allowed & (distance <= inside.kthvalue(count).values)
