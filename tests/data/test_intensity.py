from __future__ import annotations

import pytest
import torch

from tcurlora_seg.data.intensity import Background, find_background


def head() -> tuple[torch.Tensor, torch.Tensor]:
    """Intensities of 50 to 150 in a box, 0 around it, and the mask of the box."""
    inside = torch.zeros(20, 20, 20, dtype=torch.bool)
    inside[5:15, 4:16, 3:17] = True
    values = 50 + 100 * torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(0))
    return torch.where(inside, values, 0.0), inside


def test_an_image_above_0_shows_something_where_it_is_above_0() -> None:
    image, inside = head()
    assert find_background(image) == Background(0.0, below=True)
    assert torch.equal(find_background(image).inside(image), inside)


def test_ringing_below_0_is_background_still() -> None:
    image, inside = head()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    image = torch.where(inside, image, noise)
    assert find_background(image) == Background(0.0, below=True)


@pytest.mark.parametrize("outside", [0.0, -1.3, -5.0])
def test_a_z_scored_image_keeps_all_of_its_brain(outside: float) -> None:
    image, inside = head()
    brain = image[inside]
    scored = torch.where(inside, (image - brain.mean()) / brain.std(), outside)
    found = find_background(scored)
    assert found.value == pytest.approx(outside) and not found.below
    assert torch.equal(found.inside(scored), inside)
    assert torch.equal(found.inside(scored * (1 + 1e-6)), inside)  # interpolation rounds
    assert find_background(scored, "zero") == Background(0.0, below=True)


def test_where_no_value_is_frequent_every_voxel_shows_something() -> None:
    image = torch.randn(20, 20, 20, generator=torch.Generator().manual_seed(0))
    assert find_background(image) == Background(None, below=False)
    assert find_background(image).inside(image).all()


def test_air_of_a_computed_tomogram_is_background() -> None:
    image, inside = head()
    tomogram = torch.where(inside, image - 80, -1024.0)
    assert torch.equal(find_background(tomogram).inside(tomogram), inside)
