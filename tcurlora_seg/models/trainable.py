"""Selection of trainable parameters by globs over dotted parameter paths."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import backbone_of


def glob(pattern: str) -> re.Pattern[str]:
    """Regular expression of a glob: `*` stands for any characters but a dot, `**` for any characters."""
    parts = [{"**": ".*", "*": "[^.]*"}.get(p, re.escape(p)) for p in re.split(r"(\*\*|\*)", pattern)]
    return re.compile("".join(parts))


def expand(patterns: Sequence[str], names: Collection[str], key: str = "trainable") -> set[str]:
    """Names that at least one of the globs matches as a whole.

    `decoder*.**` is everything in every module whose name begins with decoder, `vit.blocks.*.mlp.**` the MLPs of all
    blocks.

    Args:
        patterns: the globs.
        names: dotted parameter paths.
        key: the configuration key that the globs came from.

    Raises:
        UserError: a glob that matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        expression = glob(pattern)
        matched = {name for name in names if expression.fullmatch(name)}
        if not matched:
            known = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise UserError(f"{key}: '{pattern}' matches no parameter; parameters start with {known}")
        found |= matched
    return found


def set_trainable(model: nn.Module, patterns: Sequence[str], adapted: Collection[str]) -> None:
    """Set the trainable parameters: those that the globs match, and those that no file gave. All others are frozen.

    Args:
        model: the network, before adapters are added to it.
        patterns: globs, or words of the backbone's `groups`; parameters that the network never uses stay frozen in
            any case.
        adapted: names of the weights under an adapter, which must stay frozen.

    Raises:
        UserError: a glob that matches nothing, a weight under an adapter, or no trainable parameter at all.
    """
    backbone = backbone_of(model)
    patterns = backbone.globs(patterns)
    parameters = {name: p for name, p in model.named_parameters() if not backbone.is_unused(name)}
    for pattern in patterns:
        touched = sorted(expand([pattern], parameters) & set(adapted))
        if touched:
            raise UserError(f"trainable: '{pattern}' would train {touched[0]}, but an adapter needs it frozen")
    base: Any = getattr(model, "base", None)
    chosen = expand(patterns, parameters) | (set(base.fresh if base else ()) & set(parameters)) - set(adapted)
    if not chosen and not adapted:
        raise UserError("no layer is adapted and 'trainable' names no parameter: nothing would train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name, adapters included."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
