"""A file is whole or not there, and what was there before a failure stays."""

from __future__ import annotations

import errno
import fcntl
import resource
import signal
from pathlib import Path

import pytest
import torch

from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path, lock, read_json, write_json, write_text
from tcurlora_seg.randomness import derive, generator


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_missing_folders_are_made_and_suffixes_kept(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "deep" / "er" / "image.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"1")
    assert (tmp_path / "deep" / "er" / "image.nii.gz").read_bytes() == b"1"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_text(tmp_path / "file" / "below.txt", "x")


def test_machines_that_share_a_folder_write_under_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for host in ("node1", "node2"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        with atomic_path(tmp_path / "a.pt") as temporary:
            names.add(temporary.name)
            temporary.touch()
    assert len(names) == 2 and all(name.endswith(".a.pt") for name in names)


def test_torchs_own_exception_of_a_full_disk_is_one_line(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        told = pytest.raises(UserError, match=r"cannot write .*a.pt: .*nothing was changed")
        with told, atomic_path(tmp_path / "a.pt") as temporary:
            torch.save(torch.zeros(100_000), temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="of something else"), atomic_path(tmp_path / "a.pt"):
        raise RuntimeError("of something else")


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "", "[1,"])
def test_bad_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_seeds_depend_on_every_part_and_on_nothing_else() -> None:
    assert derive(0, "case", 3) == 2945345537869659137  # on every machine, or no result could be had again
    assert len({derive(0, 1), derive(1, 0), derive("0", 1), derive(0, 1, 0), derive(0)}) == 5
    assert generator(0, "a").initial_seed() == derive(0, "a") < 2**63


def test_a_lock_holds_until_the_file_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as first, (tmp_path / "a").open("w") as second:
        lock(first)
        with pytest.raises(BlockingIOError):
            lock(second, wait=False)
        first.close()
        lock(second, wait=False)


@pytest.mark.parametrize(("number", "passes"), [(errno.ENOSYS, True), (errno.ENOTSUP, True), (errno.EBADF, False)])
def test_a_file_system_without_locks_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "as a mount without locks says")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "a").open("w") as file:
        if passes:
            lock(file)
        else:
            with pytest.raises(OSError, match="mount"):
                lock(file)
