"""Stopwatch for the parts of a step, on a CPU or a GPU, and words for the time that is left."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Stopwatch: call `mark` after each part of a step; `seconds` gives the times of the parts.

    On a GPU it records CUDA events: `mark` does not synchronise, `seconds` and `restart` do.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks = [self._now()]

    def mark(self) -> None:
        """Record the end of a part."""
        self._marks.append(self._now())

    def seconds(self) -> list[float]:
        """Seconds between consecutive marks."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if self.device.type != "cuda":
            return [after - before for before, after in pairs]
        torch.cuda.synchronize(self.device)
        return [before.elapsed_time(after) / 1000 for before, after in pairs]

    def restart(self) -> list[float]:
        """Seconds between the marks so far; the last mark becomes the new start."""
        times = self.seconds()
        self._marks = self._marks[-1:]
        return times

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def time_left(seconds: float, done: int, total: int) -> str:
    """Words for the remaining time, such as "about 4 min left".

    Args:
        seconds: what `done` took.
        done: how many are done, at least 1.
        total: of how many.
    """
    left = seconds / done * (total - done)
    return f"about {left:.0f} s left" if left < 100 else f"about {left / 60:.0f} min left"
