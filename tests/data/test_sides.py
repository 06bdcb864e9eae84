from __future__ import annotations

import pytest

from tcurlora_seg.data.sides import find_sides


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_kidney", "right_kidney"), ("Left-Hippocampus", "Right-Hippocampus"), ("kidney L", "kidney R"),
        ("lh.entorhinal", "rh.entorhinal"), ("HippocampusL", "HippocampusR"), ("LeftLung", "RightLung"),
        ("kidney (left)", "kidney (right)"), ("hippocampus_l", "hippocampus_r"),
    ],
)  # fmt: skip
def test_pairs_are_found_by_their_names(left: str, right: str) -> None:
    pairs, alone = find_sides({left: [1], "tumour": [5], right: [2]})
    assert pairs == [(left, right)] and alone == []


@pytest.mark.parametrize(("left", "right"), [([17], [53]), ([17, 18], [54, 53]), ([1006], [2006]), ([11130], [12130])])
def test_pairs_are_found_by_freesurfers_values(left: list[int], right: list[int]) -> None:
    assert find_sides({"a": left, "stem": [16], "b": right}) == ([("a", "b")], [])


def test_values_that_are_numbered_through_are_not_freesurfers() -> None:
    assert find_sides({f"structure{value}": [value] for value in range(1, 57)}) == ([], [])


@pytest.mark.parametrize("name", ["left_atrium", "lh.entorhinal", "Right Kidney"])
def test_a_structure_whose_name_has_no_partner_is_of_one_side(name: str) -> None:
    assert find_sides({name: [1], "tumour": [2]}) == ([], [name])


def test_a_value_whose_partner_is_background_is_of_one_side() -> None:
    assert find_sides({"hippocampus": [17]}, {0, 53}) == ([], ["hippocampus"])
    assert find_sides({"hippocampus": [17]}, {0}) == ([], [])
    assert find_sides({"hippocampus": [17, 53]}, {0, 2, 41}) == ([], [])


def test_names_that_differ_in_case_alone_are_no_pair() -> None:
    assert find_sides({"a": [1], "A": [2]}) == ([], [])


@pytest.mark.parametrize("name", ["l1", "L 4", "anterior", "upright", "leftover", "r_squared"])
def test_names_that_only_look_like_sides_are_none(name: str) -> None:
    assert find_sides({name: [1], "b": [2]}) == ([], [])
