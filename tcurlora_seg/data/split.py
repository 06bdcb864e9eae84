"""Splits into train, val and test: draws by patient, each a pure function of (manifest, scheme, seed)."""

from __future__ import annotations

import re
from dataclasses import replace

from tcurlora_seg.data.manifest import Manifest, Split, check_split
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import derive

SCHEMES = ("paper", "holdout", "kfold", "shots")
_HELD_OUT = 0.2


def draw_split(
    manifest: Manifest,
    *,
    scheme: str = "paper",
    fold: int = 0,
    folds: int = 5,
    shots: int = 5,
    seed: int = 0,
    validation: int = 0,
    leave_out: int | None = None,
    test: int | None = None,
    paper: tuple[float, float] | None = (5, 0),
) -> Split:
    """Split of the cases into train, val and test.

    Patients are ordered by a hash of (seed, patient), so that the draw depends neither on their order nor on how many
    there are, and a smaller number of shots is a part of a larger one.

    Args:
        manifest: the cohort.
        scheme: "paper", the proportions of the paper (its lists were never published); "holdout", 80 % to train on and
            20 % to test on; "kfold", fold `fold` of `folds` is the test set; "shots", `shots` patients to train on, all
            others the test set; or the name of a split that is written in the manifest, whose excluded cases are
            passed over.
        fold: number of the test fold, from 0 on.
        folds: number of folds.
        shots: number of training patients.
        seed: of the order.
        validation: patients moved from train to val; the test set does not depend on it.
        leave_out: which one of the training patients, counted from 0, is the validation set instead. One run for each
            of them chooses a rank or a number of steps without a look at the test cases.
        test: score only this many of the test cases, the first by a hash of their ids; None scores all.
        paper: sizes of train and val in the paper's split: numbers of patients, or shares where below 1; None for data
            that the paper does not have.

    Raises:
        UserError: a number out of range, an unknown scheme, too few patients.
    """
    listed = {case.id for case in manifest.cases}
    if scheme in manifest.splits:
        sides = [[id for id in ids if id not in manifest.excluded] for ids in manifest.splits[scheme].sides.values()]
        listed = {id for ids in sides for id in ids}
        train, val, held_out = (list(dict.fromkeys(manifest.case(id).patient for id in ids)) for ids in sides)
    else:
        order = sorted({case.patient for case in manifest.cases}, key=lambda p: derive("split", seed, p))
        train, val, held_out = _draw(order, scheme, fold, folds, shots, paper)
    if not train:
        raise UserError(f"split.scheme={scheme}: no case of its train list can be used; the manifest says why")
    if not 0 <= validation < len(train):
        raise UserError(f"split.validation={validation}: expected 0 to {len(train) - 1}, of {len(train)} that train")
    if leave_out is None:
        train, val = train[: len(train) - validation], val + train[len(train) - validation :]
    else:
        if validation or not 0 <= leave_out < len(train) or len(train) < 2:
            raise UserError(
                f"split.leave_out={leave_out}: expected 0 to {len(train) - 1}, of {len(train)} that train (two at "
                f"least), and split.validation=0, not {validation}"
            )
        train, val = train[:leave_out] + train[leave_out + 1 :], train[leave_out : leave_out + 1]
    chosen = ({*patients} for patients in (train, val, held_out))
    result = Split(*(tuple(c.id for c in manifest.cases if c.patient in side and c.id in listed) for side in chosen))
    check_split(result, manifest.cases, f"split.scheme={scheme}")
    if test is None:
        return result
    if not 1 <= test <= len(result.test):
        raise UserError(f"split.test={test}: expected 1 to {len(result.test)}, the number of test cases, or null")
    scored = sorted(result.test, key=lambda case: derive("scored", case))[:test]
    return replace(result, test=tuple(case for case in result.test if case in scored))


def draw_by_name(
    manifest: Manifest,
    *,
    scheme: str | None,
    name: str | None = None,
    fold: int | None = None,
    folds: int = 5,
    shots: int = 5,
    seed: int = 0,
    validation: int = 0,
    paper: tuple[float, float] | None = (5, 0),
) -> dict[str, Split]:
    """Splits to be written into the manifest, by name; of "kfold" one for every fold unless `fold` is given.

    Args:
        manifest: the cohort.
        scheme: "paper", "holdout", "kfold" or "shots", see `draw_split`; None draws nothing.
        name: of the split (folds add their number); None makes one of the scheme and its numbers.
        fold, folds, shots, seed, validation, paper: see `draw_split`.

    Raises:
        UserError: as `draw_split`; a name that stands for a draw, or that the manifest has for other lists.
    """
    if scheme is None:
        return {}
    if scheme not in SCHEMES:
        raise UserError(f"split.scheme={scheme}: expected {', '.join(SCHEMES)} to draw lists, or null for none")
    sizes = {"paper": "paper", "holdout": "holdout", "kfold": f"kfold{folds}", "shots": f"shots{shots}"}[scheme]
    name = name or f"{sizes}_seed{seed}" + (f"_val{validation}" if validation else "")
    if name in ("kfold", "shots") or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise UserError(f"split.name={name}: expected letters, digits, _ . and -, and neither kfold nor shots")
    drawn = {}
    for k in (range(folds) if fold is None else [fold]) if scheme == "kfold" else [0]:
        split = draw_split(
            replace(manifest, splits={}), scheme=scheme, fold=k, folds=folds, shots=shots, seed=seed,
            validation=validation, paper=paper,
        )  # fmt: skip
        drawn[f"{name}_fold{k}" if scheme == "kfold" else name] = split
    for name, split in drawn.items():
        if manifest.splits.get(name, split) != split:
            raise UserError(f"the manifest has a split '{name}' of other cases: choose another split.name")
    return drawn


def _draw(
    order: list[str], scheme: str, fold: int, folds: int, shots: int, paper: tuple[float, float] | None
) -> tuple[list[str], list[str], list[str]]:
    n = len(order)
    if scheme == "kfold":
        if not 2 <= folds <= n:
            raise UserError(f"split.folds={folds}: expected 2 to {n}, the number of patients")
        if not 0 <= fold < folds:
            raise UserError(f"split.fold={fold}: expected 0 to {folds - 1}")
        test = order[fold::folds]
        return [p for p in order if p not in set(test)], [], test
    if scheme == "shots":
        if not 1 <= shots < n:
            raise UserError(f"split.shots={shots}: expected 1 to {n - 1}, so that one of {n} patients is left to test")
        return order[:shots], [], order[shots:]
    if scheme == "holdout":
        paper = (1 - _HELD_OUT, 0)
    if scheme in ("paper", "holdout"):
        if paper is None:
            raise UserError("split.scheme=paper: the paper has no such data; choose holdout (80 % train) or shots")
        if n < 2:
            raise UserError(f"a split needs at least 2 patients; there is {n}")
        val = _count(paper[1], n)
        train = min(max(_count(paper[0], n), 1), n - val - 1) if paper[0] < 1 else int(paper[0])
        if train + val >= n:
            raise UserError(
                f"split.scheme=paper trains on {train} patients and tests on the others, but there are only {n}; "
                "use more cases, or split.scheme=shots with fewer split.shots"
            )
        return order[:train], order[train : train + val], order[train + val :]
    raise UserError(f"split.scheme={scheme} is not known: expected {', '.join(SCHEMES)} or a split of the manifest")


def _count(size: float, patients: int) -> int:
    return round(size * patients) if size < 1 else int(size)
