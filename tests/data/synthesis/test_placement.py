from __future__ import annotations

import pytest
import torch

from tcurlora_seg.data.synthesis.placement import draw_points, values_at
from tcurlora_seg.randomness import generator

AXES = [torch.arange(24.0) - 11.5] * 3


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bend", [3.0, 60.0])
def test_no_placement_folds_however_strong_the_bends(seed: int, bend: float) -> None:
    points = draw_points(AXES, torch.zeros(3), generator("p", seed), rotation=0.3, scale=0.2, shear=0.1, bend=bend)
    x = points[:, :-1, :-1, :-1]
    columns = [points[:, 1:, :-1, :-1] - x, points[:, :-1, 1:, :-1] - x, points[:, :-1, :-1, 1:] - x]
    assert float(torch.linalg.det(torch.stack(columns).permute(2, 3, 4, 1, 0)).min()) > 0


def test_without_a_change_every_voxel_finds_itself() -> None:
    volume = torch.randint(0, 9, (24, 20, 16), generator=generator("v"))
    axes = [(torch.arange(n) - (n - 1) / 2) * size for n, size in zip(volume.shape, (1.0, 1.5, 2.0), strict=True)]
    middle = -torch.stack([axis[0] for axis in axes])
    points = draw_points(axes, middle, generator("p"), rotation=0, scale=0, shear=0, bend=0)
    assert torch.equal(values_at(volume, points, (1.0, 1.5, 2.0)), volume)


def test_beyond_the_volume_there_is_nothing() -> None:
    volume = torch.nn.functional.pad(torch.ones(4, 4, 4, dtype=torch.int16), (1,) * 6)
    far = draw_points(AXES, torch.full((3,), 100.0), generator("p"), rotation=0, scale=0, shear=0, bend=0)
    assert not values_at(volume, far, (1.0, 1.0, 1.0)).any()
