"""Cases that every user of a data set finds wrong, though their files look sound."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tcurlora_seg.files import read_json

_PACKAGE = Path(__file__).resolve().parent.parent


def manifests_folder() -> Path:
    """`data_manifests/` of the checkout, or the copy inside an installed wheel."""
    checkout = _PACKAGE.parent / "data_manifests"
    return checkout if checkout.is_dir() else _PACKAGE / "data_manifests"


@cache
def known_defects(dataset: str) -> Mapping[str, str]:
    """Case id -> what is wrong with it, from `known_defects.json`; empty for a data set without known defects.

    They are left out of cases that are looked for on disk. A manifest that lists one all the same is obeyed: whoever
    has mended a label may use it.
    """
    return read_json(manifests_folder() / "known_defects.json").get(dataset, {})
