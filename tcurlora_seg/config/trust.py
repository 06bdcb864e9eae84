"""Trusted targets: which classes the `config.yaml` of a run directory may name.

A configuration on the command line is the user's own and may name any class. A run directory may come from somebody
else: `_target_: os.system` in it must not be called. It may name parts of this package, and of packages that the user
admits by `trust=[mine]`. Nothing is imported to find that out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tcurlora_seg.config.schema import constructor
from tcurlora_seg.errors import UserError

_PARTS = {  # where the key `_target_` may stand -> what may stand there
    r"dataset\._target_": r"tcurlora_seg\.data\.datasets\.\w+\.\w+",
    r"dataset\.preparation\._target_": r"tcurlora_seg\.data\.preparation\.\w+",
    r"dataset\.synthesis\._target_": r"tcurlora_seg\.data\.synthesis\.\w+",
    r"model\._target_": r"tcurlora_seg\.models\.\w+\.build_\w+",
    r"adapter\.(stacks\.\w+\.)?method\._target_": r"tcurlora_seg\.adapters\.\w+\.\w+",
    r"data\.augmentation\._target_": r"tcurlora_seg\.data\.augmentation\.(strong\.)?\w+",
}
_LIBRARIES = {  # what training needs besides
    r"trainer\._target_": r"lightning\.Trainer",
    r"optimizer\._target_": r"torch\.optim\.[A-Z]\w+",
    r"logger\._target_": r"lightning\.pytorch\.loggers\.[A-Z]\w+",
}


def check_trusted(
    config: DictConfig, source: object, *, given: DictConfig | None = None, trust: Sequence[str] = ()
) -> None:
    """Check the `_target_`s of a stored configuration: dataset, model, adapter and augmentation.

    Args:
        config: the stored configuration.
        source: its file, for messages.
        given: the command line's configuration, when training goes on: trainer, optimizer and logger are then built,
            too, and targets that it names itself are trusted.
        trust: packages that are trusted as well, where a part of this package may stand.

    Raises:
        UserError: a `_target_` that is no public class or function defined in one of this package's own modules for
            that part, or one in a place where none belongs.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)  # or `${...}` would bring one from another section
    except OmegaConfBaseException as error:
        raise UserError(f"{source} refers to something that it does not hold: {str(error).splitlines()[0]}") from error
    own = dict(_targets(OmegaConf.to_container(given), "")) if given is not None else {}
    for key, target in _targets(plain, ""):
        if given is None and key.split(".")[0] not in ("dataset", "model", "adapter", "data"):
            continue
        places = [names for where, names in _PARTS.items() if re.fullmatch(where, key)]
        ours = any(_own(str(target), names) for names in places)
        ours |= bool(places) and str(target).split(".")[0] in trust
        theirs = any(re.fullmatch(where, key) and re.fullmatch(n, str(target)) for where, n in _LIBRARIES.items())
        if not (ours or theirs or (key in own and own[key] == target)):
            hint = "" if given is None else "; if you chose it yourself, give it on the command line again"
            if places and re.fullmatch(r"\w+(\.\w+)+", str(target)):
                hint += f"; if the package is your own, trust=[{target.split('.')[0]}] admits it"
            raise UserError(
                f"{source}: {key}={target} is no part of tcurlora_seg that belongs there, and a stored "
                f"configuration may build nothing else: nothing was loaded{hint}"
            )


def _targets(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every `_target_` below a node, with its dotted path."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key == "_target_":
            yield f"{path}{key}", value
        yield from _targets(value, f"{path}{key}.")


def _own(target: str, names: str) -> bool:
    """Whether `target` matches `names` and is a public name that its module defines itself."""
    if not re.fullmatch(names, target) or target.rpartition(".")[2].startswith("_"):
        return False
    try:
        constructor(target)
    except UserError:
        return False
    return True
