"""Backbone description of a model's `_target_`, without heavy imports."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tcurlora_seg.errors import UserError


def backbone_of_target(target: str) -> Any:
    """Backbone description in the file of a network's builder.

    Args:
        target: dotted path of the builder, as in `model._target_`.

    Raises:
        UserError: no such file, or none that describes a network.
    """
    module = target.rpartition(".")[0]
    try:
        return import_module(module).BACKBONE
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model._target_={target}: no BACKBONE beside it describes the network") from error
