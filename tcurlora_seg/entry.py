"""The wrapper around every script: compose the configuration, validate it, run, and turn mistakes into one clear line.

Hydra alone prints six lines for a misspelt key, a traceback for an exception, and ends a sweep at its first failing
job. Here a mistake is one line and exit code 1; in a sweep a failed job is reported and the others go on.
`HYDRA_FULL_ERROR=1` shows the traceback.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import os
import re
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tcurlora_seg.errors import UserError
from tcurlora_seg.schema import OWN_NAMES, flatten, validate

_PACKAGE = Path(__file__).resolve().parent
_FAILURES = "TCURLORA_SEG_FAILURES"  # a file that every process of a sweep adds its failed jobs to
_FULL_ERROR = "TCURLORA_SEG_FULL_ERROR"


def config_folder() -> Path:
    """The folder of the YAML files: `configs/` of the checkout, or the copy inside an installed wheel."""
    checkout = _PACKAGE.parent / "configs"
    return checkout if checkout.is_dir() else _PACKAGE / "configs"


def program(
    config_name: str, *, check: Callable[[DictConfig], None] | None = None
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a composed configuration a command-line program.

    Args:
        config_name: the primary file in `configs/`.
        check: looks at values before anything heavy is imported and raises `UserError`.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(config: DictConfig) -> Any:
            try:
                validate(config, _defaults(config_name))
                if check is not None:
                    check(config)
                return function(config)
            except Exception as error:
                _report(error, _job_name())
                return float("nan")  # what an optimising sweeper takes for a failed trial

        def main() -> None:
            os.environ[_FULL_ERROR] = os.environ.get("HYDRA_FULL_ERROR", "")
            wants_help = not {"--help", "-h"}.isdisjoint(sys.argv[1:])
            os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions come here, to be told in one line
            with tempfile.TemporaryDirectory() as folder:
                failures = Path(folder) / "failures"
                os.environ[_FAILURES] = str(failures)
                try:
                    if wants_help:
                        print(help_text(config_name, [a for a in sys.argv[1:] if not a.startswith("-")]))
                        return
                    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)(job)()
                except KeyboardInterrupt:
                    sys.exit(130)
                except Exception as error:
                    _report(error, "", known_keys=lambda: flatten(_compose(config_name, [])))
                failed = failures.read_text().splitlines() if failures.exists() else []
            named = [line for line in failed if line]
            if named:
                print(f"error: {len(named)} job(s) failed: " + "; ".join(named), file=sys.stderr)
            if failed:
                sys.exit(1)

        return main

    return decorate


def help_text(config_name: str, overrides: list[str]) -> str:
    """What `--help` prints: the file's own words, the groups, and the composed configuration.

    Hydra's takes seconds, since it reads all configurations again for every group.
    """
    path = config_folder() / f"{config_name}.yaml"
    comment = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    words = [line.removeprefix("#").removeprefix(" ") for line in comment]
    entries = [entry for entry in load_config(path).get("defaults", []) if isinstance(entry, DictConfig)]
    groups = [
        f"  {name}: {', '.join(sorted(option.stem for option in (path.parent / name).glob('*.yaml')))}"
        for name in sorted(str(key) for entry in entries for key in entry)
        if (path.parent / name).is_dir()
    ]
    parts = ["\n".join(words)]
    if groups:
        parts.append("Groups, chosen with group=option:\n" + "\n".join(groups))
    keys = OmegaConf.to_yaml(_compose(config_name, overrides))
    parts.append("Keys, set with key=value:\n" + textwrap.indent(keys, "  "))
    return "\n\n".join(parts)


def _job_name() -> str:
    """In a sweep the overrides of the job, else nothing."""
    settings = HydraConfig.get()
    return " ".join(settings.overrides.task) if settings.mode == RunMode.MULTIRUN else ""


def _report(error: Exception, job: str, known_keys: Callable[[], Any] | None = None) -> None:
    if os.environ.get(_FULL_ERROR, "") not in ("", "0"):
        traceback.print_exception(error)
    print(f"error: {'[' + job + '] ' if job else ''}{explain(error, known_keys)}", file=sys.stderr, flush=True)
    with Path(os.environ[_FAILURES]).open("a", encoding="utf-8") as failures:
        failures.write(job + "\n")


def explain(error: Exception, known_keys: Callable[[], Any] | None = None) -> str:
    """Say in one or two lines what went wrong.

    Args:
        error: the exception.
        known_keys: gives the keys that exist, to suggest the nearest one for a misspelt key.
    """
    mistake = _user_error(error)
    if mistake is not None:
        return str(mistake)
    text = str(error).strip()
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_hydra(error, text, list(known_keys()) if known_keys else [])
    hint = "" if os.environ.get(_FULL_ERROR, "") not in ("", "0") else " (HYDRA_FULL_ERROR=1 shows the traceback)"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}{hint}"


def _user_error(error: BaseException) -> UserError | None:
    """The `UserError` that this is or was raised from: Hydra wraps what a constructor raises."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:  # OmegaConf closes the chain to a ring under OC_CAUSE=1
        if isinstance(cause, UserError):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__
    return None


def _explain_hydra(error: Exception, text: str, known: list[str]) -> str:
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
    """The known key closest in spelling; a key of the same last part counts as close."""
    candidates = sorted({part for k in known for part in _prefixes(k)})
    near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.7)
    if near:
        return near[0]
    same_end = [k for k in candidates if k.split(".")[-1] == key.split(".")[-1]]
    return same_end[0] if same_end else None


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _defaults(config_name: str) -> DictConfig:
    """The configuration as the YAML files give it for the chosen groups, before the values of the command line."""
    choices = {k: v for k, v in HydraConfig.get().runtime.choices.items() if not k.startswith("hydra/") and v}
    return _compose(config_name, [f"{group}={choice}" for group, choice in choices.items() if "@" not in group])


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            return compose(config_name, overrides=overrides)
    finally:
        GlobalHydra.instance().hydra = running


def load_config(path: str | Path) -> DictConfig:
    """Read a YAML file that a run has written.

    Raises:
        UserError: it is missing, not YAML, or has YAML's aliases, which a run never writes and by which a few lines
            can stand for billions.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"{path} is not the configuration of a run: it has aliases (*name)")
        loaded = OmegaConf.load(Path(path))
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: is the folder a finished run?") from error
    except Exception as error:
        raise UserError(f"{path} is not a readable configuration: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path} is not a configuration: its top level is no mapping")
    return loaded
