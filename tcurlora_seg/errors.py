"""The exception class for user errors."""

from __future__ import annotations


class UserError(ValueError):
    """An error that the user can correct: a wrong key, a missing file, a rank that is too high.

    The scripts print its text only, so it names the key or the file, the value found, the expected value and the
    remedy. It is a `ValueError`, so that callers of the Python API can catch it as usual.
    """
