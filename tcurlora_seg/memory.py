"""Available memory, and peak memory of a process or a device."""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_AMPLE = 4e9
_GROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def available_memory() -> int | None:
    """Bytes free without swapping, within the limit of a container (cgroup v2); None where the system does not say."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    limit, used, parts = (_GROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.is_file() and limit.read_text().strip() != "max":
        cached = dict(line.split() for line in parts.read_text().splitlines()).get("inactive_file", "0")
        found.append(int(limit.read_text()) - int(used.read_text()) + int(cached))  # files read before give way
    return min(found, default=None)


def keep_freed_memory() -> bool:
    """Set the C library to reuse freed memory in the next step instead of returning it to the system.

    By default glibc maps every large tensor separately and unmaps it when it is freed; new pages then cost time in
    every step on a CPU (docs/performance.md). With this setting the process holds its peak until `reset_peak`.

    Returns:
        Whether the setting took effect: not without glibc, and not where less than 4 GB are free.
    """
    free = available_memory()
    if free is None or free < _AMPLE:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def reset_peak(device: torch.device) -> None:
    """Reset the `peak_memory` of `device`; the CPU's can be reset on Linux only."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what `keep_freed_memory` has kept of an earlier run
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated by PyTorch on a GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_of_tensors(run: Callable[[], Any], device: torch.device) -> int:
    """Peak memory in bytes of the tensors created by `run()` on `device`, by PyTorch's own count.

    Libraries do not count, nor do their copies inside an operation on a CPU.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return int(torch.cuda.max_memory_allocated(device)) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    with tempfile.TemporaryDirectory() as folder:
        profiled.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return max(accumulate(size for _, size in changes), default=0)
