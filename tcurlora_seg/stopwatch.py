"""Seconds between marks, on a CPU or a GPU."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """`mark` after each part of a step, then `seconds`: the parts' times.

    On a GPU its own clock is read (events): marking waits for nothing, `seconds` and `restart` wait for the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks = [self._now()]

    def mark(self) -> None:
        """Note that a part has ended."""
        self._marks.append(self._now())

    def seconds(self) -> list[float]:
        """The time between each two marks."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if self.device.type != "cuda":
            return [after - before for before, after in pairs]
        torch.cuda.synchronize(self.device)
        return [before.elapsed_time(after) / 1000 for before, after in pairs]

    def restart(self) -> list[float]:
        """The times so far; the next one begins at the last mark."""
        times = self.seconds()
        self._marks = self._marks[-1:]
        return times

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event
