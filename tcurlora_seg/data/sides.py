"""Left and right among the classes of a task: pairs that change places in a mirror, classes of one side."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

_OTHER = {"left": "right", "l": "r", "lh": "rh"}
_LEFT_WORDS = frozenset(_OTHER)
_OTHER |= {right: left for left, right in _OTHER.items()}
_CERTAIN = {"left", "right", "lh", "rh"}  # an l alone may be lumbar
_BETWEEN = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
_LEFT = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28, 30, 31)
_RIGHT = (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 62, 63)
_MIDDLE = frozenset({14, 15, 16, 24, 72, 77, 80, 85, 251, 252, 253, 254, 255})
_ASEG = dict(zip((*_LEFT, *_RIGHT), (*_RIGHT, *_LEFT), strict=True))
"""FreeSurfer's values of the structures that aseg.mgz has, and those of the other side."""


def find_sides(
    classes: Mapping[str, Sequence[int]], others: Collection[int] = ()
) -> tuple[list[tuple[str, str]], list[str]]:
    """Pairs of classes, left and right, and classes of one side.

    Pairs are found by names (left_kidney and right_kidney, lh.x and rh.x, HippocampusL and HippocampusR), and by values
    where all of them are FreeSurfer's (17 and 53).

    Args:
        classes: name -> raw label values.
        others: raw label values that are in no class.

    Returns:
        The pairs, and the classes that are of one side by their name, or by their value and its partner in `others`.
    """
    words = {name: tuple(word.lower() for word in _BETWEEN.split(name)) for name in classes}
    named = {parts: name for name, parts in words.items()}
    values = {name: frozenset(raw) for name, raw in classes.items()}
    valued = {raw: name for name, raw in values.items()}
    freesurfer = all(_mirrored(value) is not None or value in _MIDDLE for raw in values.values() for value in raw)
    pairs: list[tuple[str, str]] = []
    alone: list[str] = []
    for name, parts in words.items():
        other = tuple(_OTHER.get(word, word) for word in parts)
        partner = named.get(other, name) if other != parts else name
        swapped = {_mirrored(value) for value in values[name]} if freesurfer else set()
        if partner == name:
            partner = valued.get(frozenset(value or 0 for value in swapped), name)
        if partner != name:
            pairs += [(name, partner)] if (partner, name) not in pairs else []
        elif _CERTAIN & {*parts} or (swapped and swapped <= {*others}):
            alone.append(name)
    return pairs, alone


def is_left(name: str) -> bool:
    """Whether a class is of the left side by its name."""
    return bool(_LEFT_WORDS & {word.lower() for word in _BETWEEN.split(name)})


def _mirrored(value: int) -> int | None:
    """FreeSurfer's value of the same structure on the other side; None where it has none."""
    if 1000 <= value < 5000:  # cortex and the white matter below it: 1 and 3 are left
        return value + 1000 if value // 1000 % 2 else value - 1000
    if 11100 <= value < 11200:
        return value + 1000
    return value - 1000 if 12100 <= value < 12200 else _ASEG.get(value)
