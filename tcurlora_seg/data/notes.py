"""Remarks about files that are used all the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_log = logging.getLogger(__name__)
_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)
_said: set[str] = set()


def note(topic: str, text: str) -> None:
    """Hand a remark to the listener; without one, log the first of its topic, since others are alike."""
    heard = _heard.get()
    if heard is None:
        if topic not in _said:
            _said.add(topic)
            _log.warning("note: %s", text)
    elif text not in heard:
        heard.append(text)


@contextmanager
def listen() -> Iterator[list[str]]:
    """Context manager that collects the remarks of one case in a list."""
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
