from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcurlora_seg.data.manifest import Case, Manifest, Split
from tcurlora_seg.data.split import draw_by_name, draw_split
from tcurlora_seg.errors import UserError


def cohort(patients: int, scans: int = 1, order: int = 1) -> Manifest:
    ids = [(f"p{p:03d}", f"p{p:03d}_{s}") for p in range(patients) for s in range(scans)][::order]
    return Manifest("lpba40", tuple(Case(id, patient, {"t1": id}, id) for patient, id in ids))


def patients(manifest: Manifest, ids: tuple[str, ...]) -> set[str]:
    return {manifest.case(id).patient for id in ids}


SCHEMES = [
    {"scheme": "paper"},
    {"scheme": "paper", "validation": 2},
    {"scheme": "paper", "paper": (0.8, 0.1)},
    {"scheme": "holdout"},
    {"scheme": "kfold", "fold": 1, "folds": 4},
    {"scheme": "shots", "shots": 3, "validation": 1},
]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(n=st.integers(12, 30), scans=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_case_is_on_one_side_and_no_patient_on_two(scheme: dict, n: int, scans: int, seed: int) -> None:
    manifest = cohort(n, scans)
    split = draw_split(manifest, seed=seed, **scheme)
    assert sorted((*split.train, *split.val, *split.test)) == sorted(case.id for case in manifest.cases)
    sides = [patients(manifest, ids) for ids in split.sides.values()]
    assert sum(len(side) for side in sides) == n
    assert split.train and split.test


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_draw_is_a_pure_function_of_patients_and_seed(scheme: dict) -> None:
    first, again = (draw_split(cohort(20, 2), seed=3, **scheme) for _ in range(2))
    assert first == again
    turned = draw_split(cohort(20, 2, order=-1), seed=3, **scheme)
    assert {k: set(v) for k, v in turned.sides.items()} == {k: set(v) for k, v in first.sides.items()}
    assert first != draw_split(cohort(20, 2), seed=4, **scheme)


def test_the_papers_sizes() -> None:
    split = draw_split(cohort(40), paper=(5, 0))
    assert (len(split.train), len(split.val), len(split.test)) == (5, 0, 35)
    split = draw_split(cohort(1251), paper=(1000 / 1251, 125 / 1251))
    assert (len(split.train), len(split.val), len(split.test)) == (1000, 125, 126)


@pytest.mark.parametrize("n", [2, 3, 4, 10])
@pytest.mark.parametrize("paper", [(1000 / 1251, 125 / 1251), (0.1, 0), (0.8, 0)])
def test_shares_leave_someone_to_train_on_and_someone_to_test(paper: tuple[float, float], n: int) -> None:
    split = draw_split(cohort(n), paper=paper)
    assert split.train and split.test


def test_the_folds_test_every_patient_once() -> None:
    manifest = cohort(11, 2)
    tested = [id for fold in range(4) for id in draw_split(manifest, scheme="kfold", fold=fold, folds=4).test]
    assert sorted(tested) == sorted(case.id for case in manifest.cases)


def test_fewer_shots_are_a_part_of_more() -> None:
    draws = [set(draw_split(cohort(20), scheme="shots", shots=n).train) for n in (1, 5, 10)]
    assert draws[0] < draws[1] < draws[2]


def test_validation_comes_from_training_and_leaves_the_test_set_alone() -> None:
    without, with_two = (draw_split(cohort(20), scheme="paper", validation=n) for n in (0, 2))
    assert with_two.test == without.test
    assert set(with_two.train) | set(with_two.val) == set(without.train)


def test_a_written_split_is_taken_by_its_name_whatever_the_seed() -> None:
    split = Split(("p000_0",), (), ("p001_0", "p002_0"))
    manifest = Manifest("lpba40", cohort(3).cases, splits={"paper": split})
    assert draw_split(manifest, scheme="paper", seed=5) == split


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scheme": "paper"}, "there are only 4"),
        ({"scheme": "paper", "paper": None}, "the paper has no such data; choose holdout"),
        ({"scheme": "kfold", "folds": 5}, "split.folds=5: expected 2 to 4"),
        ({"scheme": "kfold", "folds": 4, "fold": 4}, "split.fold=4: expected 0 to 3"),
        ({"scheme": "shots", "shots": 4}, "split.shots=4: expected 1 to 3"),
        ({"scheme": "shots", "shots": 2, "validation": 2}, "split.validation=2: expected 0 to 1"),
        ({"scheme": "random"}, "split.scheme=random is not known"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(arguments: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw_split(cohort(4), **arguments)


def test_excluded_cases_of_a_written_split_are_passed_over_and_unlisted_ones_stay_out() -> None:
    split = Split(("p000_0",), ("p001_0",), ("p002_0", "p003_0"))
    manifest = Manifest("lpba40", cohort(5, 2).cases, splits={"mine": split}).without({"p002_0": "mirrored"})
    assert draw_split(manifest, scheme="mine") == Split(("p000_0",), ("p001_0",), ("p003_0",))
    nobody = manifest.without({"p000_0": "empty"})
    with pytest.raises(UserError, match=r"split.scheme=mine: no case of its train list can be used"):
        draw_split(nobody, scheme="mine")


def test_a_written_draw_is_the_one_that_training_would_make() -> None:
    bare, (train, *rest) = cohort(8), [f"p{n:03d}_0" for n in range(8)]
    written = Manifest("lpba40", bare.cases, splits={"paper": Split((train,), (), tuple(rest))})
    drawn = draw_by_name(written, scheme="paper", seed=3, paper=(5, 0))
    assert drawn == {"paper_seed3": draw_split(bare, scheme="paper", seed=3, paper=(5, 0))}
    assert list(draw_by_name(bare, scheme="kfold", folds=4, fold=2, name="mine")) == ["mine_fold2"]
    assert list(draw_by_name(bare, scheme="shots", shots=3, validation=1)) == ["shots3_seed0_val1"]
    assert draw_by_name(bare, scheme=None) == {}
    for arguments, words in (
        ({"scheme": "halves"}, "split.scheme=halves: expected paper, holdout, kfold, shots"),
        ({"scheme": "shots", "name": "a,b"}, "split.name=a,b"),
        ({"scheme": "shots", "name": "kfold"}, "split.name=kfold"),
    ):
        with pytest.raises(UserError, match=words):
            draw_by_name(bare, **arguments)


def test_leaving_one_out_goes_through_the_training_patients_and_never_touches_the_test_cases() -> None:
    whole = draw_split(cohort(12), seed=3)
    left = [draw_split(cohort(12), seed=3, leave_out=k) for k in range(5)]
    assert sorted(id for split in left for id in split.val) == sorted(whole.train)
    for split in left:
        assert {*split.train, *split.val} == {*whole.train} and len(split.val) == 1 and split.test == whole.test


@pytest.mark.parametrize("options", [{"leave_out": 5}, {"leave_out": -1}, {"leave_out": 0, "validation": 1}])
def test_leaving_out_what_is_not_there_is_refused(options: dict) -> None:
    with pytest.raises(UserError, match=r"split\.leave_out=-?\d: expected 0 to 4"):
        draw_split(cohort(12), **options)


def test_a_limit_scores_the_first_test_cases_by_hash_and_trains_on_the_same() -> None:
    whole, few, fewer = (draw_split(cohort(30), scheme="shots", test=n) for n in (None, 8, 4))
    assert whole.train == few.train and len(few.test) == 8
    assert set(fewer.test) < set(few.test) < set(whole.test)
    assert few.test != whole.test[:8]
    with pytest.raises(UserError, match=r"split\.test=26: expected 1 to 25, the number of test cases"):
        draw_split(cohort(30), scheme="shots", test=26)


def test_holding_out_trains_on_four_of_five_and_needs_two() -> None:
    split = draw_split(cohort(20), scheme="holdout", paper=None)
    assert (len(split.train), len(split.val), len(split.test)) == (16, 0, 4)
    with pytest.raises(UserError, match="at least 2 patients"):
        draw_split(cohort(1), scheme="holdout")
