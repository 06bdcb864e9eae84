"""Methods: runs grouped by their settings, with unique labels and scores averaged case by case."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tcurlora_seg.compare.collect import FinishedRun, method_key, method_settings
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.statistics import MEASURES

ALL = "mean of structures"
"""Name of the mean over a case's structures, which stands beside them."""
VOLUMES = ("volume_ml", "reference_ml")
_NETWORK = "model._target_"


def headlines() -> list[str]:
    """Measures that a comparison shows and tests."""
    return [name for name, measure in MEASURES.items() if measure.headline]


@dataclass(frozen=True)
class Method:
    """Method: runs that differ in seeds and folds alone.

    Attributes:
        label: unique name: adapter, rank, and other settings that tell it from the others.
        name, rank: of the adapter.
        extras: {dotted key: value} of the other settings.
        runs: the repeats, by seed.
        scores: `headlines` and `VOLUMES` by (case, structure), averaged over the seeds of each draw, then the draws.
        by_repeat: the same before averaging, by (repeat, case, structure), with `status` and `draw`, that of the
            training cases.
    """

    label: str
    name: str
    rank: int | None
    extras: Mapping[str, str]
    runs: tuple[FinishedRun, ...]
    scores: pd.DataFrame
    by_repeat: pd.DataFrame

    def mean_of(self, metric: str) -> float:
        """Mean of an entry of `metrics.json` over the runs."""
        return float(pd.Series([run.metrics[metric] for run in self.runs], dtype=float).mean())

    @property
    def repeats(self) -> int:
        """Number of seeds; the folds of one seed count once."""
        return len({run.repeat for run in self.runs})

    @property
    def draws(self) -> int:
        """Number of draws of the training cases."""
        return len({run.repeat[1] for run in self.runs})

    def table(self, measure: str, structure: str) -> pd.DataFrame:
        """Scores by (draw, repeat), with a column for each case.

        Args:
            measure: column of `by_repeat`.
            structure: name of the structure.
        """
        rows = self.by_repeat[self.by_repeat["structure"] == structure]
        return rows.pivot(index=["draw", "repeat"], columns="case", values=measure)


def group_methods(runs: Sequence[FinishedRun], *, cases: str = "all") -> list[Method]:
    """Methods among runs, the one with the fewest trainable parameters first; other programs, without any, last.

    Args:
        runs: finished runs.
        cases: "all" requires equal test cases everywhere, "common" keeps those that every method and seed has.

    Raises:
        UserError: the runs differ in data set, task, test cases or references, a repeat has a case twice, or an unknown
            word for `cases`.
    """
    if cases not in ("all", "common"):
        raise UserError(f"cases={cases}: choose all or common")
    _require_one_data_set(runs)
    groups: dict[Any, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        groups[method_key(run)].append(run)
    named = name_groups([tuple(sorted(g, key=lambda r: (r.repeat, str(r.directory)))) for g in groups.values()])
    tables = {label: _by_repeat(label, group) for label, (group, _) in named.items()}
    kept = _shared_cases(tables, common=cases == "common")
    tables = {label: rows[rows["case"].isin(kept)] for label, rows in tables.items()}
    _require_one_reference(tables)
    methods = [
        Method(label, group[0].config["adapter.name"], group[0].config["adapter.rank"], extras, group,
               _average(tables[label]), tables[label])
        for label, (group, extras) in named.items()
    ]  # fmt: skip
    counts = {method.label: method.mean_of("trainable_parameters") for method in methods}
    return sorted(methods, key=lambda method: (math.isnan(counts[method.label]), counts[method.label], method.label))


def name_groups(groups: Sequence[tuple[FinishedRun, ...]]) -> dict[str, tuple[tuple[FinishedRun, ...], dict[str, str]]]:
    """Labels of groups, with as few words as tell them apart.

    Returns:
        {label: (group, extras)}: the label has adapter and rank, and where groups share these, the settings in
        `extras`.
    """
    alike = defaultdict(list)
    for group in groups:
        config = group[0].config
        rank = config["adapter.rank"]
        alike[config["adapter.name"] + ("" if rank is None else f", rank {rank}")].append(group)
    named = {}
    for base, members in alike.items():
        settings = [method_settings(group[0]) for group in members]
        keys = _telling_keys(settings)
        for group, values in zip(members, settings, strict=True):
            extras = {key: values.get(key, "not set") for key in keys}
            words = [_word(key, value) for key, value in extras.items()]
            named[", ".join([base, *words])] = (group, extras)
    return named


def _word(key: str, value: str) -> str:
    """A setting in a label; a network of this package by the name of its builder."""
    if key == _NETWORK:
        return value.rpartition(".build_")[2] if value.startswith("tcurlora_seg.") else value
    return f"{key.rpartition('.')[2]} {value}"


def _telling_keys(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """A few keys whose values together tell all these settings apart: the network, then those with most values."""
    keys = sorted(set().union(*settings))
    variety = {key: len({values.get(key) for values in settings}) for key in keys}
    chosen: list[str] = []
    parts = 1
    for key in sorted(keys, key=lambda key: (key != _NETWORK, -variety[key], key.count("."), key)):
        told = len({tuple(values.get(k) for k in [*chosen, key]) for values in settings})
        if told > parts:
            chosen, parts = [*chosen, key], told
    return sorted(chosen)


def differing_settings(methods: Sequence[Method]) -> dict[str, list[str]]:
    """Settings outside `adapter` in which the methods of this package differ, as {key: value of each}."""
    settings = [method_settings(method.runs[0]) for method in methods if not method.runs[0].foreign]
    keys = sorted(key for key in set().union(*settings) if not key.startswith("adapter."))
    rows = {key: [values.get(key, "not set") for values in settings] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _by_repeat(label: str, group: Sequence[FinishedRun]) -> pd.DataFrame:
    """The rows of all runs with their repeat; a case's mean over its structures stands beside them.

    Raises:
        UserError: a repeat has a case twice.
    """
    tables = []
    for run in group:
        rows = run.cases[["case", "structure", "status", *headlines(), *VOLUMES]]
        if rows["structure"].nunique() > 1:
            means = rows.groupby("case", sort=False, as_index=False)[headlines()].mean()
            rows = pd.concat([means.assign(structure=ALL, status="scored"), rows])
        tables.append(rows.assign(repeat="seed {}, draw {}".format(*run.repeat), draw=run.repeat[1]))
    rows = pd.concat(tables, ignore_index=True)
    twice = rows[rows.duplicated(["repeat", "case", "structure"])]
    if len(twice):
        repeat, case = twice[["repeat", "case"]].iloc[0]
        raise UserError(
            f"{_unit((label, repeat))} was scored on case {case} by several runs, which differ in split.fold or "
            "split.leave_out alone: give one of them"
        )
    return rows


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the draws of the means over each draw's seeds: draws weigh alike in every method."""
    by_draw = rows.groupby(["case", "structure", "draw"], sort=False)[[*headlines(), *VOLUMES]].mean()
    return by_draw.groupby(["case", "structure"], sort=False).mean()


def _require_one_data_set(runs: Sequence[FinishedRun]) -> None:
    for key in ("dataset", "task", "label_map"):  # the last: label maps of one page have classes in one order
        places: dict[str, FinishedRun] = {}
        for run in runs:
            if key in run.summary:
                places.setdefault(str(run.summary[key]), run)
        if len(places) > 1:
            found = " and ".join(f"{value} ({run.directory})" for value, run in list(places.items())[:2])
            raise UserError(f"the runs differ in {key}: {found}; give runs of one {key}")


def _shared_cases(tables: Mapping[str, pd.DataFrame], *, common: bool) -> set[str]:
    """The cases that every method and repeat was scored on.

    Raises:
        UserError: they differ and `common` is not asked for, or none is shared.
    """
    units = {
        (label, str(repeat)): set(zip(part["case"], part["structure"], strict=True))
        for label, rows in tables.items()
        for repeat, part in rows.groupby("repeat")
    }
    (first, expected), *others = units.items()
    for unit, pairs in others:
        if {s for _, s in pairs} != {s for _, s in expected}:
            raise UserError(f"the runs differ in their structures: {_unit(first)} and {_unit(unit)}")
        if pairs != expected and not common:
            strange = sorted({case for case, _ in pairs ^ expected})
            shown = ", ".join(strange[:6]) + (" ..." if len(strange) > 6 else "")
            raise UserError(
                f"the test cases differ: only one of {_unit(first)} and {_unit(unit)} was scored on {shown}; "
                "give runs of one split, or cases=common"
            )
    shared = set.intersection(*({case for case, _ in pairs} for pairs in units.values()))
    if not shared:
        raise UserError("cases=common: there is no case that every run was scored on")
    return shared


def _unit(unit: tuple[str, str]) -> str:
    return f"{unit[0]} with {unit[1]}"


def _require_one_reference(tables: Mapping[str, pd.DataFrame]) -> None:
    """Equal case ids of two simulated cohorts, or of two versions of a data set, are not the same cases."""
    rows = pd.concat([table.assign(label=label) for label, table in tables.items()])
    volumes = rows.groupby(["case", "structure"], sort=False)["reference_ml"]
    apart = volumes.max() - volumes.min() > 1e-6 * volumes.max().clip(lower=1)
    if apart.any():
        case, structure = apart.index[apart.argmax()]
        low, high = volumes.min()[case, structure], volumes.max()[case, structure]
        raise UserError(
            f"the references differ: {structure} of case {case} has {low:.3f} ml in one run and {high:.3f} ml in "
            "another; the runs were scored on different data"
        )
