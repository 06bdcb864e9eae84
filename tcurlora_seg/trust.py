"""A configuration that comes with somebody else's run may choose among this package's parts, and name nothing else.

On the command line a configuration is one's own and may name any class. The `config.yaml` of a run directory travels
with it: `_target_: os.system` in it must not be called by whoever evaluates that run.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.errors import UserError

_PARTS = {  # where the key `_target_` may stand -> which modules hold what may stand there
    r"dataset\._target_": r"tcurlora_seg\.data\.datasets\.\w+",
    r"dataset\.preparation\._target_": r"tcurlora_seg\.data\.preparation",
    r"model\._target_": r"tcurlora_seg\.models\.unetr",
    r"adapter\.(stacks\.\w+\.)?method\._target_": r"tcurlora_seg\.adapters\.\w+",
    r"data\.augmentation\._target_": r"tcurlora_seg\.data\.augmentation",
}


def check_trusted(config: DictConfig, source: object) -> None:
    """Check what dataset, model, adapter and augmentation of a stored configuration would build.

    Raises:
        UserError: a `_target_` that is no public class or function defined in one of this package's own modules for
            that part, or one in a place where none belongs.
    """
    for section in ("dataset", "model", "adapter", "data"):
        plain = OmegaConf.to_container(config.get(section, OmegaConf.create()), resolve=True)  # as it will be built
        for key, target in _targets(plain, section):
            if not any(re.fullmatch(where, key) and _own(str(target), modules) for where, modules in _PARTS.items()):
                raise UserError(
                    f"{source}: {key}={target} is no part of tcurlora_seg that belongs there, and a stored "
                    "configuration may build nothing else: nothing was loaded"
                )


def _targets(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every `_target_` below a node, with its dotted path."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key == "_target_":
            yield f"{path}.{key}", value
        yield from _targets(value, f"{path}.{key}")


def _own(target: str, modules: str) -> bool:
    """Whether `target` is a name that a module of this package matching `modules` defines itself."""
    module, _, name = target.rpartition(".")
    if not re.fullmatch(modules, module) or name.startswith("_") or importlib.util.find_spec(module) is None:
        return False
    found = getattr(importlib.import_module(module), name, None)
    return callable(found) and found.__module__ == module
