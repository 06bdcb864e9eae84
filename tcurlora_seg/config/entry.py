"""Entry point of every script: compose the configuration, validate it, run, and report errors in one line.

Hydra alone prints six lines for a misspelt key, a traceback for an exception, and ends a sweep at its first failing
job. Here a mistake is one line and exit code 1; in a sweep a failed job is reported and the others go on.
`HYDRA_FULL_ERROR=1` shows the traceback.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config import sweep
from tcurlora_seg.config.messages import FULL_ERROR, explain, wants_traceback
from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.config.schema import flatten, validate
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.config.terminal import shorten_warnings, tolerate

_FAILURES = "TCURLORA_SEG_FAILURES"  # a file that every process of a sweep adds its failed jobs to


def program(
    config_name: str, *, check: Callable[[DictConfig], None] | None = None
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorator that makes a function of a composed configuration a command-line program.

    Args:
        config_name: the primary file in `configs/`.
        check: check of the values before anything heavy is imported; raises `UserError`.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(config: DictConfig) -> Any:
            tolerate()
            shorten_warnings()
            if sweep.asked_to_stop():
                return float("nan")
            try:
                if sweep.running():
                    sweep.begin()
                validate(config, _defaults(config_name))
                expand_home(config)
                if check is not None:
                    check(config)
                return function(config)
            except Exception as error:
                _report(error, _job_name())
                return float("nan")  # what an optimising sweeper takes for a failed trial
            except (SystemExit, KeyboardInterrupt) as stop:  # other jobs must hear of it, and may be elsewhere
                if not sweep.running():
                    raise
                if isinstance(stop, KeyboardInterrupt):  # a training that a signal ended has recorded itself
                    sweep.record("stopped")
                sweep.ask_to_stop()
                return float("nan")

        def main() -> None:
            tolerate()
            os.environ[FULL_ERROR] = os.environ.get("HYDRA_FULL_ERROR", "")
            wants_help = not {"--help", "-h"}.isdisjoint(sys.argv[1:])
            os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions come here, to be told in one line
            with tempfile.TemporaryDirectory() as folder:
                failures = Path(folder) / "failures"
                os.environ[_FAILURES] = str(failures)
                try:
                    if wants_help:
                        print(help_text(config_name, *_own_folders(sys.argv[1:])))
                        return
                    sys.argv[1:] = map(quote_path, sys.argv[1:])
                    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)(job)()
                except KeyboardInterrupt:
                    sys.exit(130)
                except Exception as error:
                    _report(error, "", known_keys=lambda: flatten(_compose(config_name, _groups(sys.argv[1:]))))
                finally:
                    code = sweep.close()
                failed = failures.read_text().splitlines() if failures.exists() else []
            if any(failed) and not code:
                print(f"error: {len(failed)} job(s) failed", file=sys.stderr)
            if failed or code:
                sys.exit(code or 1)

        return main

    return decorate


def _own_folders(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Overrides among a command's arguments, and the configuration folders that it adds."""
    given, _ = get_args_parser().parse_known_args(list(arguments))
    places = [given.config_dir] if given.config_dir else []
    for override in given.overrides:
        if override.startswith("hydra.searchpath="):
            places += re.findall(r"file://([^,\]'\"]+)", override)
    return [o for o in given.overrides if not o.startswith("hydra.searchpath=")], [Path(place) for place in places]


def quote_path(argument: str) -> str:
    """Quoted argument, if its value is a path that Hydra's grammar cannot read, such as ~/data, /data/a(1) or Köpfe."""
    match = re.fullmatch(r"(\+{0,2}[\w.@/]+)=((?:~|\.{0,2}/)[^,]*|[\w./-]+)", argument)
    try:
        OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        if match:
            value = match[2].replace("'", "\\'")
            return f"{match[1]}='{value}'"
    return argument


def expand_home(config: DictConfig) -> None:
    """Replace ~ by the home directory, in place: shells do not, after an equals sign and within quotes."""

    def expanded(value: Any) -> Any:
        if isinstance(value, list):
            return [expanded(item) for item in value]
        return os.path.expanduser(value) if isinstance(value, str) and re.match(r"~[^/]*(/|$)", value) else value

    for key, value in flatten(config).items():
        if expanded(value) != value:
            OmegaConf.update(config, key, expanded(value))


def help_text(config_name: str, overrides: list[str], folders: Sequence[Path] = ()) -> str:
    """Text of `--help`: the file's header, the groups, and the composed configuration.

    Hydra's own takes seconds, since it reads all configurations again for every group.

    Args:
        config_name: the primary file in `configs/`.
        overrides: the command's overrides.
        folders: configuration folders that the command adds, by `--config-dir` or `hydra.searchpath`.
    """
    path = config_folder() / f"{config_name}.yaml"
    comment = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    words = [line.removeprefix("#").removeprefix(" ") for line in comment]
    entries = [entry for entry in load_config(path).get("defaults", []) if isinstance(entry, DictConfig)]
    places = (path.parent, *folders)
    groups = [
        f"  {name}: {', '.join(sorted(option.stem for p in places for option in p.glob(f'{name}/*.yaml')))}"
        for name in sorted(str(key) for entry in entries for key in entry)
        if (path.parent / name).is_dir()
    ]
    parts = ["\n".join(words)]
    if groups:
        parts.append("Groups, chosen with group=option:\n" + "\n".join(groups))
    composed = _compose(config_name, overrides, [f"file://{folder.resolve()}" for folder in folders])
    keys = OmegaConf.to_yaml(composed)
    parts.append("Keys, set with key=value:\n" + textwrap.indent(keys, "  "))
    return "\n\n".join(parts)


def _groups(arguments: Sequence[str]) -> list[str]:
    """Overrides among a command's arguments that choose an option of a group."""
    choices = [override.partition("=")[::2] for override in _own_folders(arguments)[0]]
    return [f"{group}={option}" for group, option in choices if (config_folder() / group / f"{option}.yaml").is_file()]


def _job_name() -> str:
    """Words that tell a job of a sweep from the others; empty outside a sweep."""
    settings = HydraConfig.get()
    if sweep.running() and sweep.words():
        return ", ".join(sweep.words())
    return " ".join(settings.overrides.task) if settings.mode == RunMode.MULTIRUN else ""


def _report(error: Exception, job: str, known_keys: Callable[[], Any] | None = None) -> None:
    if wants_traceback():
        traceback.print_exception(error)
    text = explain(error, known_keys)
    print(f"error: {'[' + job + '] ' if job else ''}{text}", file=sys.stderr, flush=True)
    if job and sweep.running():
        sweep.record("failed", message=text)
    with Path(os.environ[_FAILURES]).open("a", encoding="utf-8") as failures:
        failures.write(job + "\n")


def _defaults(config_name: str) -> DictConfig:
    """Configuration of the chosen groups, without the values of the command line."""
    choices = {k: v for k, v in HydraConfig.get().runtime.choices.items() if not k.startswith("hydra/") and v}
    sources = HydraConfig.get().runtime.config_sources
    added = [f"{s.schema}://{s.path}" for s in sources if s.provider == "command-line" or "searchpath" in s.provider]
    return _compose(config_name, [f"{group}={choice}" for group, choice in choices.items() if "@" not in group], added)


def _compose(config_name: str, overrides: list[str], searchpath: Sequence[str] = ()) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            places = [f"hydra.searchpath=[{','.join(map(repr, searchpath))}]"] if searchpath else []
            return compose(config_name, overrides=[*overrides, *places])
    finally:
        GlobalHydra.instance().hydra = running
