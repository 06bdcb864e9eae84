"""Output that never fails, on an ASCII terminal or a closed pipe, and warnings in one line."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from typing import Any

_ASCII = {"±": "+-", "→": "->", "−": "-", "…": "...", "≥": ">=", "≤": "<=", "×": "x"}
_usual = warnings.formatwarning


def tolerate() -> None:
    """Make standard output and error replace what they cannot encode, and ignore a closed pipe."""
    codecs.register_error("ascii_words", _replace)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            buffered = stream.line_buffering
            encoding = stream.encoding
            tolerant = _Tolerant(stream.detach(), encoding, "ascii_words", line_buffering=buffered)
            setattr(sys, name, tolerant)
            setattr(sys, f"__{name}__", tolerant)


def shorten_warnings() -> None:
    """Make warnings to the user one line, without the place in the code that raised them."""
    warnings.formatwarning = _short  # type: ignore[assignment]


def _short(message: Warning | str, category: type[Warning], *place: Any) -> str:
    return f"warning: {message}\n" if category is UserWarning else _usual(message, category, *place)


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_ASCII.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


class _Tolerant(io.TextIOWrapper):
    """Text stream that changes to the null device when its pipe is closed."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._turn_away()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._turn_away()

    def _turn_away(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
