"""Seeds that are pure functions of what they are for, so that no draw depends on workers, devices or order."""

from __future__ import annotations

import hashlib
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
