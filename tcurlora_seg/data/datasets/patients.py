"""Patients by the names of the cases, since nobody may stand on both sides of a split."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial

from tcurlora_seg.errors import UserError

log = logging.getLogger(__name__)

_BIDS = re.compile(r"sub-[A-Za-z0-9]+")
_LAST = re.compile(r"[_-][^_-]*$")
_VISITS = 5  # more cases than this to a stem are hardly one patient's


def patient_finder(pattern: str | None) -> Callable[[str], str | None]:
    """Function from the id of a case to its patient, or None where a pattern does not match.

    Args:
        pattern: what it finds, or its first group, is the patient; None takes `sub-01` of BIDS, else the whole id.

    Raises:
        UserError: no regular expression.
    """
    try:
        return partial(_patient_of, None if pattern is None else re.compile(pattern))
    except re.error as error:
        raise UserError(f"dataset.patient={pattern} is not a regular expression: {error}") from error


def _patient_of(pattern: re.Pattern[str] | None, id: str) -> str | None:
    if pattern is None:
        found = _BIDS.match(id)
        return found[0] if found else id
    found = pattern.search(id)
    return found[1 if pattern.groups else 0] if found else None


def warn_of_shared_names(ids: Sequence[str]) -> None:
    """Warning where names look as if one patient had several cases, each taken for another patient."""
    plain = [id for id in ids if not _BIDS.match(id)]
    stems: dict[str, list[str]] = {}
    for id in plain:
        stems.setdefault(_LAST.sub("", id), []).append(id)
    shared = next((group for group in stems.values() if len(group) > 1), None)
    if shared and len(stems) > 1 and max(map(len, stems.values())) <= _VISITS:
        log.warning(
            "note: %s and %s may be one patient's, who could stand on both sides of a split: "
            "'dataset.patient=\"^(.*)[_-]\"' would take what they share for the patient", shared[0], shared[1],
        )  # fmt: skip
