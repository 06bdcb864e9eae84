"""Clearing away small pieces: what goes, what stays, and when it is said."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.pieces import Clearing, clear_pieces

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
    after = clear_pieces(before, TUMOUR, (1, 1, 1), Clearing(min_component_ml=0.1), "case")
    expected = before.copy()
    expected[20:] = 0
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(before, tumour())


def test_volumes_are_in_millilitres_of_the_images_own_voxels_and_the_limit_itself_stays() -> None:
    after = clear_pieces(tumour(), TUMOUR, (1, 1, 1), Clearing(min_component_ml=0.027), "case")
    assert after[21, 3, 3] == 1 and after[28, 18, 18] == 0
    assert clear_pieces(tumour(), TUMOUR, (0.9, 1, 1), Clearing(min_component_ml=0.027), "case")[21, 3, 3] == 0
    assert clear_pieces(tumour(), TUMOUR, (3, 3, 3), Clearing(min_component_ml=0.027), "case")[28, 18, 18] == 3


def test_a_structure_can_have_a_volume_of_its_own() -> None:
    after = clear_pieces(tumour(), TUMOUR, (1, 1, 1), Clearing(min_component_ml={"enhancing": 0.002}), "case")
    assert not (after == 3).any() and after[21, 3, 3] == 1


def test_corners_connect() -> None:
    chain = np.zeros((8, 8, 8), np.uint8)
    for i in range(8):
        chain[i, i, i] = 2
    assert clear_pieces(chain, TUMOUR, (5, 5, 5), Clearing(min_component_ml=1.0), "case").any()
    assert not clear_pieces(chain, TUMOUR, (4.9, 5, 5), Clearing(min_component_ml=1.0), "case").any()


def test_a_corner_or_an_edge_holds_no_second_piece_where_only_the_largest_stay() -> None:
    blocks = np.zeros((9, 9, 9), np.uint8)
    blocks[:3, :3, :3], blocks[3:5, 3:5, 3:5], blocks[5, 5, 4] = 2, 2, 2  # by a corner, and on from there by an edge
    after = clear_pieces(blocks, TUMOUR, (1, 1, 1), Clearing(largest_pieces=1), "case")
    assert (after[:3, :3, :3] == 2).all() and after.sum() == 2 * 27
    after[3, 2, 2] = 2  # a face does
    assert (clear_pieces(after, TUMOUR, (1, 1, 1), Clearing(largest_pieces=1), "case") == after).all()


def test_a_structure_that_vanishes_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        clear_pieces(tumour(), TUMOUR, (1, 1, 1), Clearing(min_component_ml=0.1), "case 1")
        assert not caplog.records
        clear_pieces(np.zeros_like(tumour()), TUMOUR, (1, 1, 1), Clearing(min_component_ml=0.1), "case 2")
        assert not caplog.records
        clear_pieces(tumour(), TUMOUR, (1, 1, 1), Clearing(min_component_ml=1.0), "case 3")
    assert "case 3: min_component_ml removes all of whole_tumor: its largest piece has 0.512 ml" in caplog.text


def test_a_number_stands_for_the_structures_that_are_no_part_of_another() -> None:
    pair = Task("pair", {1: (1,), 2: (2,)}, {"left": (1,), "right": (2,)})
    assert Clearing(None, 1).resolved(TUMOUR)["min_component_ml"] == {"whole_tumor": 1.0}
    assert Clearing(0.1, 0.5, 2).resolved(pair) == {
        "min_share": 0.1, "min_component_ml": {"left": 0.5, "right": 0.5}, "largest_pieces": {"left": 2, "right": 2}
    }  # fmt: skip
    assert Clearing().resolved(pair) == {"min_share": None, "min_component_ml": {}, "largest_pieces": {}}


@pytest.mark.parametrize("wrong", [{"brain": 1}, {"enhancing": "much"}, -1, True, float("nan")])
def test_a_volume_that_cannot_be_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="min_component_ml"):
        Clearing(min_component_ml=wrong).resolved(TUMOUR)


def test_only_the_largest_pieces_stay() -> None:
    after = clear_pieces(tumour(), TUMOUR, (1, 1, 1), Clearing(largest_pieces=2), "case")
    assert after[5, 5, 5] == 2 and after[21, 3, 3] == 1 and after[28, 18, 18] == 0
    after = clear_pieces(tumour(), TUMOUR, (1, 1, 1), Clearing(largest_pieces={"tumor_core": 1}), "case")
    assert after[21, 3, 3] == 1 and not (after == 3).any() and after[5, 5, 5] == 2
    both = clear_pieces(tumour(), TUMOUR, (1, 1, 1), Clearing(None, 0.1, 5), "case")
    assert both[5, 5, 5] == 2 and not both[20:].any()


@pytest.mark.parametrize("wrong", [0, 1.5, True, {"brain": 1}, {"enhancing": "all"}])
def test_a_number_of_pieces_that_cannot_be_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="largest_pieces"):
        Clearing(largest_pieces=wrong).resolved(TUMOUR)


def test_what_lies_apart_from_all_that_was_found_goes_first() -> None:
    """A stray piece of class 1 is the largest of its class, but far from the mass; the two of 27 stay if they may."""
    apart = tumour()
    apart[7, 7, 7] = 1
    after = clear_pieces(apart, TUMOUR, (1, 1, 1), Clearing(0.1, largest_pieces={"tumor_core": 1}), "case")
    expected = apart.copy()
    expected[20:] = 0
    expected[7, 7, 7] = 0
    np.testing.assert_array_equal(after, expected)
    after = clear_pieces(apart, TUMOUR, (1, 1, 1), Clearing(27 / 512), "case")
    assert after[21, 3, 3] == 1 and after[28, 18, 18] == 0 and after[7, 7, 7] == 1
    np.testing.assert_array_equal(clear_pieces(apart, TUMOUR, (1, 1, 1), Clearing(0), "case"), apart)
    assert not clear_pieces(np.zeros_like(apart), TUMOUR, (1, 1, 1), Clearing(0.1), "case").any()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, True, "much", [0.1], {"brain": 0.1}, float("nan")])
def test_a_share_that_cannot_be_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="min_share"):
        Clearing(wrong).resolved(TUMOUR)
