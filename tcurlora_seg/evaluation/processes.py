"""Several processes that share one job: each takes its part of the cases, and everyone gets all results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the one that writes and speaks; known before the processes have met."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def several() -> bool:
    """Whether several processes have met."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def share(items: Sequence[T]) -> list[T]:
    """This process's part: every n-th item, for n processes; all of them where there is one."""
    if not several():
        return list(items)
    return list(items[distributed.get_rank() :: distributed.get_world_size()])


def gather(records: list[T]) -> list[T]:
    """The records of all processes, those of the first before those of the second. Every process must call it."""
    if not several():
        return records
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, records)
    return [record for part in found for record in part]
