from __future__ import annotations

import pytest

from tcurlora_seg.training.plan import (
    TrainingCases,
    batch_for,
    common_spacing,
    fitting_window,
    plan_training,
    steps_for,
)

LARGEST = (64, 64, 64)
HIPPOCAMPI = TrainingCases(
    shapes=[(38, 51, 37), (36, 49, 31), (33, 50, 35)],
    spacings=[(1.0, 1.0, 1.0)] * 3,
    voxels=[[68286, 1800, 1620], [51657, 1402, 1625], [54573, 1458, 1719]],
)


@pytest.mark.parametrize(
    ("shapes", "window"),
    [
        ([(38, 51, 37), (36, 49, 31)], [48, 64, 48]),
        ([(48, 64, 32)], [48, 64, 32]),
        ([(49, 10, 16)], [64, 16, 16]),
        ([(240, 240, 155), (30, 30, 30)], [64, 64, 64]),
    ],
)
def test_the_window_is_the_smallest_that_holds_the_volumes_up_to_the_networks(shapes: list, window: list) -> None:
    assert fitting_window(shapes, LARGEST) == window


def test_voxel_sizes_are_left_alone_unless_they_differ_by_a_third() -> None:
    assert common_spacing([(0.86, 1.5, 0.86), (0.78, 1.5, 0.78)]) is None
    assert common_spacing([(1, 1, 1), (1, 1, 1.1), (1, 1, 3)]) == [1, 1, 1.1]


def test_a_smaller_window_takes_more_steps_in_the_same_time() -> None:
    assert steps_for((64, 64, 64), LARGEST) == 300
    assert steps_for((48, 64, 48), LARGEST) == 525
    assert steps_for((16, 16, 16), LARGEST) == 1000


def test_two_crops_a_step_or_one_where_two_do_not_fit() -> None:
    assert batch_for(lambda n: n * 100, 200) == batch_for(lambda n: n * 100, None) == 2
    assert batch_for(lambda n: n * 100, 199) == 1


def test_data_that_fill_the_window_are_trained_on_as_ever() -> None:
    whole = TrainingCases(shapes=[(150, 180, 140)], spacings=[(1, 1, 1)], voxels=[[3_770_000, 5000]])
    plan = plan_training(whole, largest=LARGEST)
    assert (plan.window, plan.spacing, plan.steps, plan.batch_size) == ([64, 64, 64], None, 300, 2)


def test_small_volumes_get_a_window_weights_and_steps_that_fit_them() -> None:
    plan = plan_training(HIPPOCAMPI, largest=LARGEST)
    assert (plan.window, plan.steps) == ([48, 64, 48], 525)
    assert plan.class_weights[0] == 1 and plan.class_weights[1:] == pytest.approx([9.6, 9.3], abs=0.3)


def test_what_follows_from_the_window_follows_from_one_chosen_by_hand() -> None:
    plan = plan_training(HIPPOCAMPI, largest=LARGEST, window=[64, 64, 64])
    assert (plan.window, plan.steps) == ([64, 64, 64], 300)
    assert plan.class_weights[1] > 12
