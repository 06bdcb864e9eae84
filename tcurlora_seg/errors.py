"""The one exception for mistakes of the person at the keyboard."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the user can mend: a wrong key, a missing file, a rank that is too high.

    Its text is all that the scripts print, so it names the key or the file, the value found, what was expected and
    what to do. It is a `ValueError`, so that callers of the Python API need to know nothing about it.
    """
