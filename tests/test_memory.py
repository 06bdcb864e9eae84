"""Freed volumes stay with the process, unless memory is short."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tcurlora_seg import memory

FAULTS = """
import resource, torch
from tcurlora_seg import memory
{setting}
def step():
    torch.ones(2**24).add_(1)
for _ in range(6):  # until what is kept has room for a volume
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str) -> int:
    code = FAULTS.format(setting=setting)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc here")
def test_pages_are_not_fetched_anew_for_every_volume() -> None:
    assert faults("assert memory.keep_freed_memory()") < 0.1 * faults("")


def test_where_memory_is_short_everything_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 10**9)
    assert not memory.keep_freed_memory()
