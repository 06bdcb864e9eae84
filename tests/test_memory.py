"""Freed volumes stay with the process, unless memory is short."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

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


def test_in_a_container_files_that_were_read_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("8000000\n")
    (tmp_path / "memory.current").write_text("7900000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 7300000\nactive_file 1\n")
    assert memory.available_memory() == 7_400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert (memory.available_memory() or 10**12) > 7_400_000
