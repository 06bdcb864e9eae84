"""Typical values of training images as the network sees them, to find what is unusual in another image or result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tcurlora_seg.data.grid import AXES
from tcurlora_seg.data.structures import volume_text

Facts = dict[str, float]
"""Name -> number; of a structure under `<structure>/ml` and `<structure>/pieces`."""
Ranges = Mapping[str, Sequence[float]]
"""Name -> least and largest."""
UNKNOWN: Ranges = MappingProxyType({})

_QUANTILES = (1, 25, 50, 75, 99)
_FACTOR = 1.25
"""How far a length, a volume of what an image shows or a share may lie outside of the training images' range."""
_RESULT_FACTOR = 2.0
"""The same for volume and number of pieces of a structure, which differ more from person to person."""
_LEAST_SHARE = 0.02
"""Least share that is found, of what an image shows or of all structures of the smallest training case."""
_INTENSITY = 0.25
"""The same for a quantile of the intensities, as a share of the spread between the outer ones."""


def image_facts(image: NDArray[np.floating], spacing: Sequence[float], modalities: Sequence[str]) -> Facts:
    """Measures of a prepared image: field of view, volume and share of what shows something, intensities.

    Args:
        image: (C, X, Y, Z) with background at 0.
        spacing: voxel size in mm.
        modalities: names of the channels.
    """
    shows = (image != 0).any(axis=0)
    facts = {f"length {axis}, mm": float(n * size) for axis, n, size in zip(AXES, shows.shape, spacing, strict=True)}
    facts["shown, ml"] = float(shows.sum() * np.prod(spacing) / 1000)
    facts["shown, share"] = float(shows.mean())
    for modality, channel in zip(modalities, image, strict=True):
        values = np.percentile(channel[shows], _QUANTILES) if shows.any() else np.zeros(len(_QUANTILES))
        facts |= {f"{modality}, {q} %": float(value) for q, value in zip(_QUANTILES, values, strict=True)}
    return facts


def result_facts(
    labels: NDArray[np.integer], spacing: Sequence[float], structures: Mapping[str, Sequence[int]]
) -> Facts:
    """Measures of a label map: volume and number of pieces (26 neighbours) of each structure.

    Args:
        labels: (X, Y, Z) class indices.
        spacing: voxel size in mm.
        structures: name -> class indices.
    """
    facts: Facts = {}
    for name, classes in structures.items():
        mask = np.isin(labels, list(classes))
        box = ndimage.find_objects(mask.astype(np.uint8))
        pieces = ndimage.label(mask[box[0]], structure=np.ones((3, 3, 3)))[1] if box else 0
        facts[f"{name}/ml"], facts[f"{name}/pieces"] = float(mask.sum() * np.prod(spacing) / 1000), float(pieces)
    return facts


def ranges(facts: Iterable[Facts]) -> dict[str, list[float]]:
    """Least and largest of every measure over some cases."""
    cases = list(facts)
    return {name: [f(case[name] for case in cases) for f in (min, max)] for name in (cases[0] if cases else ())}


def unusual(facts: Facts, seen: Ranges) -> list[str]:
    """Lines on the measures of a case that lie outside of the training cases' ranges; none where nobody has measured.

    Args:
        facts: of `image_facts` or `result_facts`.
        seen: of `ranges`.
    """
    lines = []
    for name, value in facts.items():
        if name not in seen or "/" in name:
            continue
        low, high = seen[name]
        if name.endswith("%"):
            lowest, highest = (seen[f"{name.rpartition(', ')[0]}, {q} %"] for q in (_QUANTILES[0], _QUANTILES[-1]))
            margin = _INTENSITY * (highest[1] - lowest[0])
            if not low - margin <= value <= high + margin:
                span = f"{low:.2f} to {high:.2f}"
                lines.append(f"{name} of its intensities lie below {value:.2f}, of training images {span}")
        elif not low / _FACTOR <= value <= high * _FACTOR:
            lines.append(_unusual_size(name, value, low, high))
    named = dict.fromkeys(name.rpartition("/")[0] for name in facts if f"{name.rpartition('/')[0]}/ml" in seen)
    if "shown, ml" in seen or not named:
        return lines + [line for name in named for line in _unusual_structure(name, facts, seen, whole=True)]
    return lines + _unusual_part(list(named), facts, seen)


def _unusual_part(names: Sequence[str], facts: Facts, seen: Ranges) -> list[str]:
    """Lines on a result, where images of the training showed any part: what is too little counts in a whole alone."""
    shown, found = facts.get("shown, ml", 0.0), sum(facts[f"{name}/ml"] for name in names)
    smallest = sum(seen[f"{name}/ml"][0] for name in names)
    lines = [line for name in names for line in _unusual_structure(name, facts, seen, whole=found >= smallest)]
    if lines and found >= smallest:
        lines.append("are orientation and voxel size in its header right?")  # so looks a brain that lies upside down
    if found < _LEAST_SHARE * min(shown, smallest):
        share = f"only {volume_text(found)} of the {volume_text(shown)} that it shows"
        lines.append(f"{share} belong to a structure: is it another part of the body?")
    return lines


def _unusual_size(name: str, value: float, low: float, high: float) -> str:
    if name == "shown, ml":
        more = ": is a skull left in, or another part of the body?" if value > high else ""
        return f"it shows {volume_text(value)}, training images {volume_text(low)} to {volume_text(high)}{more}"
    if name == "shown, share":
        return f"{value:.0%} of it is above background, of training images {low:.0%} to {high:.0%}"
    axis = name.removeprefix("length ").removesuffix(", mm")
    return f"it is {value:.0f} mm long {axis}, training images {low:.0f} to {high:.0f} mm"


def _unusual_structure(name: str, facts: Facts, seen: Ranges, *, whole: bool) -> list[str]:
    """A line on the volume and the pieces of a structure; what is too little counts where the `whole` is seen."""
    (low, high), (fewest, most) = seen[f"{name}/ml"], seen.get(f"{name}/pieces", (0, math.inf))
    volume, pieces = facts[f"{name}/ml"], facts[f"{name}/pieces"]
    least = low / _RESULT_FACTOR if whole else 0
    if least <= volume <= high * _RESULT_FACTOR and pieces <= max(most, 1) * _RESULT_FACTOR:
        return []
    found = f"{name}: {volume_text(volume)} in {pieces:.0f} piece{'' if pieces == 1 else 's'}"
    count = "" if most == math.inf else f" in {fewest:.0f}" if fewest == most else f" in {fewest:.0f} to {most:.0f}"
    return [f"{found}, in training {volume_text(low)} to {volume_text(high)}{count}"]


def read_ranges(raw: Any) -> dict[str, list[float]]:
    """Ranges as a model file notes them; nothing for a file without them.

    Raises:
        TypeError, ValueError: something else.
    """
    found = {str(name): [float(bound) for bound in bounds] for name, bounds in dict(raw or {}).items()}
    if not all(len(bounds) == 2 for bounds in found.values()):
        raise ValueError("two numbers are expected")
    return found
