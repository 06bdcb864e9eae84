"""Clearing away small pieces: what goes, what stays, and when it is said."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import Volume, prepare_image
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.native import minimum_volumes, native_probabilities, remove_small, segment
from tcurlora_seg.inference.windows import Predictor

TUMOUR = Task(
    "subregions", {1: (1,), 2: (2,), 3: (4,)}, {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing": (3,)}
)


def tumour() -> np.ndarray:
    """A mass of 8 x 8 x 8 voxels with a speck of class 3 in it, a stray piece of 27 and one of a voxel."""
    result = np.zeros((30, 20, 20), np.uint8)
    result[2:10, 2:10, 2:10] = 2
    result[4, 4, 4] = 3
    result[20:23, 2:5, 2:5] = 1
    result[28, 18, 18] = 3
    return result


def test_pieces_below_the_volume_go_and_what_lies_inside_a_large_one_stays() -> None:
    before = tumour()
    after = remove_small(before, TUMOUR, (1, 1, 1), 0.1, "case")
    expected = before.copy()
    expected[20:] = 0
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(before, tumour())


def test_volumes_are_in_millilitres_of_the_images_own_voxels_and_the_limit_itself_stays() -> None:
    after = remove_small(tumour(), TUMOUR, (1, 1, 1), 0.027, "case")
    assert after[21, 3, 3] == 1 and after[28, 18, 18] == 0
    assert remove_small(tumour(), TUMOUR, (0.9, 1, 1), 0.027, "case")[21, 3, 3] == 0
    assert remove_small(tumour(), TUMOUR, (3, 3, 3), 0.027, "case")[28, 18, 18] == 3


def test_a_structure_can_have_a_volume_of_its_own() -> None:
    after = remove_small(tumour(), TUMOUR, (1, 1, 1), {"enhancing": 0.002}, "case")
    assert not (after == 3).any() and after[21, 3, 3] == 1


def test_corners_connect() -> None:
    chain = np.zeros((8, 8, 8), np.uint8)
    for i in range(8):
        chain[i, i, i] = 2
    assert remove_small(chain, TUMOUR, (5, 5, 5), 1.0, "case").any()
    assert not remove_small(chain, TUMOUR, (4.9, 5, 5), 1.0, "case").any()


def test_a_structure_that_vanishes_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        remove_small(tumour(), TUMOUR, (1, 1, 1), 0.1, "case 1")
        assert not caplog.records
        remove_small(np.zeros_like(tumour()), TUMOUR, (1, 1, 1), 0.1, "case 2")
        assert not caplog.records
        remove_small(tumour(), TUMOUR, (1, 1, 1), 1.0, "case 3")
    assert "case 3: min_component_ml removes all of whole_tumor: its largest piece has 0.512 ml" in caplog.text


def test_a_number_stands_for_the_structures_that_are_no_part_of_another() -> None:
    pair = Task("pair", {1: (1,), 2: (2,)}, {"left": (1,), "right": (2,)})
    assert minimum_volumes(TUMOUR, 1) == {"whole_tumor": 1.0}
    assert minimum_volumes(pair, 0.5) == {"left": 0.5, "right": 0.5}
    assert minimum_volumes(pair, None) == {}


@pytest.mark.parametrize("wrong", [{"brain": 1}, {"enhancing": "much"}, -1, True, float("nan")])
def test_a_volume_that_cannot_be_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="min_component_ml"):
        minimum_volumes(TUMOUR, wrong)


class Ramp(torch.nn.Module):
    """Three smooth classes, which depend on the intensity alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-(x**2), x, -x], 1) * self.scale


@pytest.mark.parametrize("spacing", [None, [2.0, 1.5, 1.0]])
def test_a_label_map_is_the_most_probable_class_on_the_files_grid(spacing: list[float] | None) -> None:
    """Class by class gives what all classes at once give; what was cropped away is background."""
    voxels = torch.zeros(1, 14, 12, 10)
    voxels[:, 3:12, 2:11, 1:9] = 100 + 50 * torch.rand(1, 9, 9, 8, generator=torch.Generator().manual_seed(0))
    preparation = Preparation(spacing=spacing)
    volume = Volume("a", voxels[0].numpy(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    case = prepare_image([volume], preparation=preparation, spacing=None, case="a")
    image = case.image
    predictors = [Predictor(Ramp(), window=(16, 16, 16), classes=3)]
    label, _, found = segment(predictors, case, TUMOUR, keep=True)
    alone, prepared, nothing = segment(predictors, case, TUMOUR)
    np.testing.assert_array_equal(label, alone)
    assert nothing is None and found is not None and (len(np.unique(label)) == 3)
    np.testing.assert_array_equal(prepared, found.argmax(0).numpy())
    at_once = preparation.invert(found, image, nearest=False)
    np.testing.assert_array_equal(label, at_once.argmax(0).numpy())
    probabilities = native_probabilities(found, image, preparation)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(probabilities[..., 1:], at_once[1:].movedim(0, -1).numpy(), atol=1e-6)
    assert (probabilities[0, 0, 0] == [1, 0, 0]).all()
