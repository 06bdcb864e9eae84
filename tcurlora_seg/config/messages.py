"""Error messages: any exception in one or two lines."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from typing import Any

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from tcurlora_seg.config.schema import OWN_NAMES
from tcurlora_seg.errors import UserError

FULL_ERROR = "TCURLORA_SEG_FULL_ERROR"
"""Environment variable that keeps the user's own value of HYDRA_FULL_ERROR."""


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(FULL_ERROR, "") not in ("", "0")


def explain(error: Exception, known_keys: Callable[[], Any] | None = None) -> str:
    """Error message of one or two lines.

    Args:
        error: the exception.
        known_keys: function that lists the existing keys, to suggest the nearest one for a misspelt key.
    """
    mistake = _user_error(error)
    if mistake is not None:
        return str(mistake)
    text = str(error).strip()
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_hydra(error, text, list(known_keys()) if known_keys else [])
    hint = "" if wants_traceback() else " (HYDRA_FULL_ERROR=1 shows the traceback)"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}{hint}"


def _user_error(error: BaseException) -> UserError | None:
    """The `UserError` in a chain of exceptions: Hydra wraps those of constructors."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:  # OmegaConf closes the chain to a ring under OC_CAUSE=1
        if isinstance(cause, UserError):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__
    return None


def _explain_hydra(error: Exception, text: str, known: list[str]) -> str:
    if isinstance(error, OverrideParseException):
        key, equals, value = str(error.override).partition("=")
        if not equals:
            return f"'{key}' sets nothing: expected key=value; --cfg job lists the keys"
        if value.startswith("{") and not value.endswith("}"):
            return f"{error.override} is cut short: a shell divides at spaces, so quote the whole: '{key}={value} ...'"
        if not value.isascii() and value[:1] in ("[", "{"):
            return f"{error.override} cannot be read: in lists and mappings Hydra knows no letters but a to z"
        return (
            f"{error.override} cannot be read: spaces, commas, quotes, brackets, = and ~ mean something to Hydra; "
            f"a text with them needs two kinds of quotes: '{key}=\"{value or 'value'}\"'"
        )
    ambiguous = re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text)
    if ambiguous:
        key, value = ambiguous.groups()
        return (
            f"{key}={value}: a comma divides the values of a sweep, which needs -m; "
            f"one text is written '{key}=\"{value}\"', a list {key}=[{value}]"
        )
    misspelt = re.match(r"Could not override '(?P<key>[^']+)'", text) or re.search(r"full_key: (?P<key>\S+)", text)
    if misspelt and ("not in struct" in f"{error.__cause__}{text}" or "append to your config" in text):
        key = misspelt["key"]
        inside = re.search(rf"full_key: ({re.escape(key)}\.\S+)", str(error.__cause__))
        key = inside[1] if inside else key  # of key={new: ...} Hydra names the outer one
        near, parent = _nearest(key, known), key.rpartition(".")[0]
        if key.startswith(OWN_NAMES) and (f"{parent}." in OWN_NAMES or near == parent):
            return f"there is no key '{key}' yet: +{key}=... adds one"
        return f"there is no key '{key}'" + (f"; did you mean '{near}'?" if near else "; --cfg job lists them")
    unknown = re.search(r"Could not find '(?P<choice>[^']+)'.*?Available options in '(?P<group>[^']+)':(?P<options>.*)",
                        text, re.DOTALL)
    if unknown:
        options = unknown["options"].split("\n\n")[0].split("Config search path")[0].split()
        value = unknown["choice"].removeprefix(unknown["group"] + "/")
        return f"{unknown['group']}={value} does not exist; choose from {', '.join(options)}"
    group = re.search(r"Could not override '(?P<key>[^']+)'\. No match in the defaults list", text)
    if group:
        near = _nearest(group["key"], known)
        return f"there is no config group '{group['key']}'" + (f"; did you mean '{near}'?" if near else "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("See https://", "object_type="))]
    return " ".join(lines[:3]) or type(error).__name__


def _nearest(key: str, known: list[str]) -> str | None:
    """Known key closest in spelling, or one with the same last part."""
    candidates = sorted({k.rsplit(".", n)[0] for k in known for n in range(k.count(".") + 1)})
    near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.7)
    if near:
        return near[0]
    same_end = [k for k in candidates if k.split(".")[-1] == key.split(".")[-1]]
    return same_end[0] if same_end else None
