"""Stacks of a network: from roles and blocks to the rows of its layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import backbone_of


def stack_for(model: nn.Module, roles: Sequence[str], blocks: Sequence[int] | None = None) -> Stack:
    """The stack of `roles` in `blocks`, block by block.

    Args:
        model: the network.
        roles: of its backbone; their slices must have one shape.
        blocks: block indices; None for all.

    Raises:
        UserError: an unknown network or role, a block that does not exist, slices of different shapes.
    """
    backbone = backbone_of(model)
    for role in roles:
        backbone.check_role(role)
    depth = len(backbone.blocks(model))
    chosen = tuple(range(depth) if blocks is None else blocks)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(depth)):
        raise UserError(f"blocks={list(chosen)}: name different blocks of 0 to {depth - 1}, or null for all")
    if not roles:
        raise UserError(f"roles=[]: name at least one of {', '.join(backbone.roles)}")
    slots, shapes = [], {}
    for block in chosen:
        for role in roles:
            place = backbone.roles[role]
            if "{block}" not in place.layer and block != chosen[-1]:
                continue
            path = place.layer.format(block=block)
            rows, *columns = model.get_parameter(f"{path}.weight").shape
            height = rows // place.parts
            slots.append(Slot(block, role, path, place.part * height, (place.part + 1) * height))
            shapes[role] = (height, *columns, 0)[:2]
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{role} {rows}" + f" x {inner}" * bool(inner) for role, (rows, inner) in shapes.items())
        raise UserError(f"roles={list(roles)} have slices of different shapes ({listed}): give each its own stack")
    out_features, in_features = shapes[roles[0]]
    return Stack(tuple(slots), chosen, tuple(roles), backbone.heads(model), out_features, in_features)


def stacked_weights(model: nn.Module, stack: Stack) -> Tensor:
    """The stack's tensor (slices, out, in), or (slices, out) of LayerNorms: a float32 copy at least of the weights."""
    rows = [model.get_parameter(f"{s.linear}.weight").detach()[s.first : s.last] for s in stack.slots]
    weights = torch.stack(rows)
    return weights.to(torch.promote_types(weights.dtype, torch.float32))
