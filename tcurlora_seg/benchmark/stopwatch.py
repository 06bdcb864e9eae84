"""Seconds between marks and peak memory, on a CPU or a GPU."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch


class Stopwatch:
    """`mark` after each part of a step, then `seconds`: the parts' times. On a GPU its own clock is read (events)."""

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

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that were allocated on a GPU, or the most that the process ever held on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
