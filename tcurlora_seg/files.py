"""Atomic file writing (a temporary name, then a rename), and JSON files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from tcurlora_seg.errors import UserError

TEMPORARY = ".partial."
"""Prefix of temporary file names."""

_UMASK = os.umask(0o077)  # reading the umask means setting it; done once, since threads share it
os.umask(_UMASK)
_TORCH = re.compile("inline_container|PytorchStreamWriter|iostream error")
"""Messages of torch.save when writing fails."""
_LARGEST = 100_000_000  # bytes of JSON: a manifest takes some 300 a case


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Context manager for an atomic write: a temporary path, renamed to `path` on success, removed on failure.

    The temporary name keeps the suffixes, since many writers choose their format by them.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    writer = f"{socket.gethostname()}.{os.getpid()}"  # machines may share a folder, and numbers
    temporary = path.with_name(f"{TEMPORARY}{writer}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)  # some writers open their files for the owner alone
        os.replace(temporary, path)
    except (OSError, SafetensorError, RuntimeError) as error:  # safetensors and torch have their own for a full disk
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, RuntimeError):
            if not _TORCH.search(str(error)):
                raise
            free = shutil.disk_usage(path.parent).free
            reason = f"the disk is full, or files may not be as large ({free / 1e9:.1f} GB are free)"
        raise UserError(f"cannot write {path}: {reason}; nothing was changed") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def lock(file: IO[Any], *, wait: bool = True) -> None:
    """Exclusive lock on an open file until it is closed; none on a file system without locks (some of Lustre).

    Args:
        file: open for writing.
        wait: until another process lets it go.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically. NaN is refused, since JSON has none: use None."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read the JSON file `path`.

    Raises:
        UserError: the file is missing, unreadable, huge or not JSON; the text names it.
    """
    try:
        size = Path(path).stat().st_size
        if size > _LARGEST:
            raise UserError(f"{path} has {size:,} bytes: too many for what is read from JSON here ({_LARGEST:,})")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
