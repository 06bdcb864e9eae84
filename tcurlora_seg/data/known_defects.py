"""Known defects: cases that every user of a data set finds wrong, though their files look sound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from tcurlora_seg.config.paths import shipped
from tcurlora_seg.data.manifest import Case
from tcurlora_seg.files import read_json


def known_defects(dataset: str, cases: Iterable[Case]) -> dict[str, str]:
    """Defects by case, each with its file, from `known_defects.json`.

    They are left out of cases that are looked for on disk. A manifest that lists one all the same is obeyed: whoever
    has mended a label may use it.
    """
    listed = defect_list().get(dataset, {})
    return {case.id: f"{case.label_paths[0]}: {listed[case.id]}" for case in cases if case.id in listed}


@cache
def defect_list() -> Mapping[str, Mapping[str, str]]:
    """Data set -> case id -> its defect."""
    return read_json(shipped("data_manifests") / "known_defects.json")
