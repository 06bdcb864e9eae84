"""Hashed random seeds, so that no draw depends on workers, devices or order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed hashed from `parts`, for example `derive(seed, epoch, case, draw)`; the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive(*parts)`."""
    import torch

    return torch.Generator().manual_seed(derive(*parts))


def uniform(g: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A uniform random number from `low` to `high`, drawn from the generator `g`."""
    import torch

    return low + (high - low) * float(torch.rand((), generator=g))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Context manager for one thread, as in a data loader's worker: sums over several threads differ in last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
