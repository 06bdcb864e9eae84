"""Seeds that are pure functions of what they are for, so that no draw depends on workers, devices or order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed from `parts`, for example `derive(seed, epoch, case, draw)`; the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive(*parts)`."""
    import torch

    return torch.Generator().manual_seed(derive(*parts))


def uniform(g: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A uniform draw from `low` to `high`."""
    import torch

    return low + (high - low) * float(torch.rand((), generator=g))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Compute in one thread, as a worker of a loader does: sums over several threads differ in their last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
