from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.data.cache import Survey
from tcurlora_seg.data.spacing import TrainingSpacing
from tcurlora_seg.training.plan import common_spacing, fitting_window, plan_training, steps_for

LARGEST = (64, 64, 64)
HIPPOCAMPI = Survey(
    shapes=[(38, 51, 37), (36, 49, 31), (33, 50, 35)],
    voxels=[[68286, 1800, 1620], [51657, 1402, 1625], [54573, 1458, 1719]],
)


def planned(survey: Survey, **given: Any) -> tuple[DictConfig, str]:
    open_entries = {
        "window": None, "trainer": {"max_steps": None}, "dataset": {"preparation": {"spacing": None}},
        "training": {"class_weights": "auto", "loss": "dice_ce"},
    }  # fmt: skip
    config = OmegaConf.merge(open_entries, OmegaConf.from_dotlist([f"{k}={v}" for k, v in given.items()]))
    assert isinstance(config, DictConfig)
    return config, plan_training(config, survey, largest=LARGEST, multiple=16)


@pytest.mark.parametrize(
    ("shapes", "window"),
    [
        ([(38, 51, 37), (36, 49, 31)], [48, 64, 48]),
        ([(48, 64, 32)], [48, 64, 32]),
        ([(49, 10, 16)], [64, 32, 32]),
        ([(240, 240, 155), (30, 30, 30)], [64, 64, 64]),
    ],
)
def test_the_window_is_the_smallest_that_holds_the_volumes_up_to_the_networks(shapes: list, window: list) -> None:
    assert fitting_window(shapes, LARGEST, 16) == window


def test_voxel_sizes_are_left_alone_unless_they_differ_by_a_third() -> None:
    assert common_spacing([(0.86, 1.5, 0.86), (0.78, 1.5, 0.78)]) is None
    assert common_spacing([(1, 1, 1), (1, 1, 1.1), (1, 1, 3)]) == [1, 1, 1.1]


def test_voxel_sizes_that_the_base_has_never_seen_become_its_own() -> None:
    base = TrainingSpacing((0.8, 0.8, 0.8), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    assert common_spacing([(1.2, 1.2, 1.5)], base) is None
    assert common_spacing([(0.5, 0.5, 1.5)], base) == [1, 1, 1.5]
    assert common_spacing([(1, 1, 1.5), (1, 1, 2)], base) == [1, 1, 2]


def test_a_smaller_window_takes_more_steps_in_the_same_time() -> None:
    assert steps_for((64, 64, 64), LARGEST, 5) == 2000
    assert steps_for((48, 64, 48), LARGEST, 5) == 3550
    assert steps_for((16, 16, 16), LARGEST, 5) == 4000
    assert steps_for((96, 96, 96), LARGEST, 5) == 2000


def test_one_or_two_cases_are_learnt_in_fewer_steps() -> None:
    assert [steps_for((48, 64, 48), LARGEST, cases) for cases in (1, 2, 3)] == [1500, 3000, 3550]
    assert [steps_for((64, 64, 64), LARGEST, cases) for cases in (1, 2)] == [1500, 2000]


def test_data_that_fill_the_window_have_the_networks_own_and_the_fewest_steps() -> None:
    config, _ = planned(Survey(shapes=[(150, 180, 140)] * 2, voxels=[[3_770_000, 5000]] * 2))
    assert (config.window, config.trainer.max_steps) == ([64, 64, 64], 2000)


def test_small_volumes_get_a_window_weights_and_steps_that_fit_them_and_the_plan_says_so() -> None:
    config, said = planned(HIPPOCAMPI)
    assert (config.window, config.trainer.max_steps) == ([48, 64, 48], 3550)
    assert config.training.class_weights == pytest.approx([1, 9.6, 9.3], abs=0.4)
    assert "window of 48 x 64 x 48 for training volumes of up to 38 x 51 x 37" in said and "3550 steps" in said


def test_what_is_given_stays_and_the_rest_follows_from_it() -> None:
    config, _ = planned(HIPPOCAMPI, window="[64,64,64]")
    assert (config.window, config.trainer.max_steps) == ([64, 64, 64], 2000)
    assert config.training.class_weights[1] > 12
    config, said = planned(HIPPOCAMPI, **{"training.class_weights": "[1,2,3]", "trainer.max_steps": 7})
    assert (config.training.class_weights, config.trainer.max_steps) == ([1, 2, 3], 7)
    assert "class weights 1, 2, 3" in said
    assert planned(HIPPOCAMPI, **{"training.loss": "dice"})[0].training.class_weights is None
