"""Distribution of cases over processes, and collection of their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the one that writes and prints; known before the processes have met."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def several() -> bool:
    """Whether several processes have met."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def share(items: Sequence[T]) -> list[T]:
    """Part of this process: every n-th item for n processes."""
    if not several():
        return list(items)
    return list(items[distributed.get_rank() :: distributed.get_world_size()])


def gather(records: list[T]) -> list[T]:
    """Records of all processes, in the order of the processes. Every process must call it."""
    if not several():
        return records
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, records)
    return [record for part in found for record in part]
