from __future__ import annotations

import numpy as np
import pytest

from tcurlora_seg.data.typical import image_facts, ranges, read_ranges, result_facts, unusual


def head(side: int = 20, seed: int = 0) -> np.ndarray:
    """A prepared image: z-scores in a box of `side` voxels of 40, 0 around it."""
    image = np.zeros((1, 40, 40, 40), np.float32)
    image[0, 5 : 5 + side, 5 : 5 + side, 5 : 5 + side] = np.random.default_rng(seed).normal(size=(side, side, side))
    return image


SEEN = ranges(image_facts(head(side, seed), (2, 2, 2), ["t1"]) for seed, side in enumerate((19, 20, 21)))
STRUCTURES = {"hippocampus": [1, 2], "left": [1]}


def labels(*corners: int) -> np.ndarray:
    """Cubes of 4 voxels of class 1 at these corners."""
    result = np.zeros((40, 40, 40), np.uint8)
    for corner in corners:
        result[corner : corner + 4, 10:14, 10:14] = 1
    return result


def test_an_image_is_measured_as_the_network_sees_it() -> None:
    facts = image_facts(head(), (2, 1, 1), ["t1"])
    assert facts["length left-right, mm"] == 80 and facts["length bottom-top, mm"] == 40
    assert facts["shown, ml"] == pytest.approx(20**3 * 2 / 1000) and facts["shown, share"] == 0.125
    assert facts["t1, 50 %"] == pytest.approx(0, abs=0.05) and facts["t1, 99 %"] == pytest.approx(2.33, abs=0.15)


def test_a_result_is_measured_by_volume_and_pieces() -> None:
    facts = result_facts(labels(2, 20), (1, 1, 2), STRUCTURES)
    assert facts == {"hippocampus/ml": 0.256, "hippocampus/pieces": 2, "left/ml": 0.256, "left/pieces": 2}
    assert result_facts(labels(), (1, 1, 1), {"left": [1]}) == {"left/ml": 0, "left/pieces": 0}


def test_another_image_of_the_same_kind_is_not_unusual() -> None:
    assert unusual(image_facts(head(20, seed=9), (2, 2, 2), ["t1"]), SEEN) == []


def test_an_image_that_still_has_its_skull_is_named() -> None:
    lines = unusual(image_facts(head(30), (2, 2, 2), ["t1"]), SEEN)
    assert lines == [
        "it shows 216 ml, training images 54.9 ml to 74.1 ml: is a skull left in, or another part of the body?",
        "42% of it is above background, of training images 11% to 14%",
    ]


def test_another_field_of_view_and_other_intensities_are_named() -> None:
    facts = image_facts(head()[:, :26], (2, 2, 2), ["t1"])
    assert "it is 52 mm long left-right, training images 80 to 80 mm" in unusual(facts, SEEN)
    shifted = image_facts(np.where(head() != 0, head() + 3, 0), (2, 2, 2), ["t1"])
    (median,) = (line for line in unusual(shifted, SEEN) if line.startswith("t1, 50 %"))
    assert median.startswith("t1, 50 % of its intensities lie below 2.98, of training images")


def test_too_much_and_too_many_pieces_are_named_in_one_line() -> None:
    facts = [result_facts(labels(*corners), (1, 1, 1), STRUCTURES) for corners in ((5,), (5, 20))]
    seen = {**SEEN, **ranges(facts)}
    assert unusual(result_facts(labels(9, 25), (1, 1, 1), STRUCTURES), seen) == []
    many = result_facts(labels(0, 6, 12, 18, 24), (1, 1, 1), {"left": [1]})
    assert unusual(many, seen) == ["left: 0.32 ml in 5 pieces, in training 64 mm³ to 0.128 ml in 1 to 2"]
    none = result_facts(labels(), (1, 1, 1), {"left": [1]})
    assert unusual(none, seen) == ["left: 0 ml in 0 pieces, in training 64 mm³ to 0.128 ml in 1 to 2"]


WHOLE = {"cortex/ml": [300.0, 600.0], "hippocampus/ml": [4.0, 10.0]}
"""As label maps give them: of their images nothing is fixed, which may show any part."""


def found(cortex: float, hippocampus: float) -> dict[str, float]:
    return {"cortex/ml": cortex, "cortex/pieces": 9.0, "hippocampus/ml": hippocampus, "hippocampus/pieces": 2.0}


def test_a_part_of_what_was_labelled_may_hold_little_or_nothing_of_a_structure() -> None:
    for cortex, hippocampus in ((0, 0), (100, 0), (0, 3), (303, 0.5), (320, 2.1), (1190, 19)):
        assert unusual(found(cortex, hippocampus), WHOLE) == []
    assert unusual(found(20, 21), WHOLE) == ["hippocampus: 21 ml in 2 pieces, in training 4 ml to 10 ml"]


def test_a_whole_that_lacks_a_structure_may_lie_on_its_side() -> None:
    assert unusual(found(400, 0.7), WHOLE) == [
        "hippocampus: 0.7 ml in 2 pieces, in training 4 ml to 10 ml",
        "are orientation and voxel size in its header right?",
    ]


def test_an_image_in_which_next_to_nothing_is_found_may_be_none_of_a_head() -> None:
    shown = {"shown, ml": 2097.0}
    assert unusual(shown | found(5.6, 0.4), WHOLE) == [
        "only 6 ml of the 2,097 ml that it shows belong to a structure: is it another part of the body?"
    ]
    assert unusual(shown | found(6.2, 0), WHOLE) == [] and unusual(shown, WHOLE) == []
    small = {"shown, ml": 50.0}
    assert len(unusual(small | found(0, 0.9), WHOLE)) == 1 and unusual(small | found(0, 1.1), WHOLE) == []


def test_a_model_file_without_ranges_calls_nothing_unusual() -> None:
    assert unusual(image_facts(head(), (2, 2, 2), ["t1"]), read_ranges(None)) == []
    assert read_ranges(SEEN) == SEEN
    for raw in ({"a": [1]}, {"a": "x"}, [1], 3):
        with pytest.raises((TypeError, ValueError)):
            read_ranges(raw)
