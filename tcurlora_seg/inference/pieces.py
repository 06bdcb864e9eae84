"""Removal of connected components (pieces) of a structure that are too small or too many."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tcurlora_seg.data.structures import volume_text
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError

_log = logging.getLogger(__name__)


class Clearing(NamedTuple):
    """Rules for pieces; None removes nothing.

    The last two are a number for every structure that is no part of a larger one, or a number by structure.

    Attributes:
        min_share: least volume of a piece of all structures together, as a share of the largest such piece.
        min_component_ml: least volume of a piece of a structure.
        largest_pieces: number of the largest pieces of a structure that stay: 2 for one on both sides. Here voxels hang
            together by their faces alone: what hangs on by an edge or a corner is what is to go.
    """

    min_share: float | None = None
    min_component_ml: Any = None
    largest_pieces: Any = None

    def resolved(self, task: Task) -> dict[str, Any]:
        """The rules by name: the share, and numbers by structure; {} for None.

        Raises:
            UserError: an impossible number, or a structure that the task lacks.
        """
        share = self.min_share
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if share is not None and not (number and 0 <= share <= 1):
            raise UserError(f"min_share={share}: expected a share of the largest piece, 0 to 1, or null")
        numbers = {key: _numbers(task, key, getattr(self, key)) for key in ("min_component_ml", "largest_pieces")}
        return {"min_share": share, **numbers}


NOTHING = Clearing()


def _numbers(task: Task, key: str, rule: Any) -> dict[str, float]:
    if rule is None:
        return {}
    if not isinstance(rule, Mapping):
        members = {name: set(classes) for name, classes in task.structures.items()}
        rule = {name: rule for name, own in members.items() if not any(own < m for m in members.values())}
    whole = key == "largest_pieces"
    for name, number in rule.items():
        if name not in task.structures:
            raise UserError(f"{key}: {task.name} has no structure {name}; it has {', '.join(task.structures)}")
        if isinstance(number, bool) or not isinstance(number, int if whole else int | float) or not number >= whole:
            expected = "a number of pieces, such as 1" if whole else "a volume in ml, such as 1"
            raise UserError(f"{key}={number}: expected {expected}, or null")
    return {str(name): number if whole else float(number) for name, number in rule.items()}


def clear_pieces(
    segmentation: NDArray[np.uint8], task: Task, spacing: Sequence[float], clearing: Clearing, source: str
) -> NDArray[np.uint8]:
    """Copy of a label map in which removed pieces are background.

    A piece is a set of voxels connected by faces, edges or corners (26 neighbours), for `largest_pieces` by faces (6).

    Args:
        segmentation: class indices (X, Y, Z).
        task: the meaning of the classes.
        spacing: voxel size along each axis in mm.
        clearing: the rules.
        source: the case, for the warning where all of a structure goes.

    Raises:
        UserError: see `Clearing`.
    """
    result, voxel_ml = segmentation.copy(), float(np.prod(spacing)) / 1000.0
    share, least, most = clearing.resolved(task).values()
    if share:
        pieces, sizes = find_pieces(result > 0)
        result[np.concatenate([[False], sizes < share * sizes.max(initial=0)])[pieces]] = 0
    for name, volume in least.items():
        pieces, sizes = find_pieces(np.isin(result, task.structures[name]))
        goes = sizes * voxel_ml < volume
        result[np.concatenate([[False], goes])[pieces]] = 0
        if len(sizes) and goes.all():
            _log.warning(
                "%s: min_component_ml removes all of %s: its largest piece has %s, less than %s",
                source, name, volume_text(sizes.max() * voxel_ml), volume_text(volume),
            )  # fmt: skip
    for name, number in most.items():
        pieces, sizes = find_pieces(np.isin(result, task.structures[name]), by_faces=True)
        result[np.isin(pieces, 1 + np.argsort(-sizes, kind="stable")[number:])] = 0
    return result


def find_pieces(mask: NDArray[np.bool_], *, by_faces: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number of the piece of each voxel, 0 outside, and their sizes in voxels, from piece 1 on.

    Args:
        mask: (X, Y, Z).
        by_faces: connected by faces alone (6 neighbours), not by edges and corners, too (26).
    """
    pieces, count = ndimage.label(mask, structure=ndimage.generate_binary_structure(3, 1 if by_faces else 3))
    return pieces, np.bincount(pieces.ravel(), minlength=count + 1)[1:]
