"""Stack construction: from roles and blocks to rows of a network's layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import Role, backbone_of
from tcurlora_seg.models.linear import Adapted
from tcurlora_seg.models.trainable import glob


def layers_of(model: nn.Module, role: str, place: Role) -> list[str]:
    """Dotted paths of a role's layers, in order of appearance.

    Args:
        model: the network.
        role: name of the role, for messages.
        place: its layers.

    Raises:
        UserError: no layer, one that is neither linear nor a LayerNorm, one whose `forward` is never called, rows that
            do not split into equal parts, or a part that does not exist.
    """
    expression = glob(place.layer)
    found = {path: module for path, module in model.named_modules() if path and expression.fullmatch(path)}
    if not found:
        raise UserError(f"role '{role}': no layer matches '{place.layer}'")
    if place.part not in range(place.parts):
        raise UserError(f"role '{role}': there is no part {place.part} of {place.parts}: parts are counted from 0")
    for path, layer in found.items():
        if isinstance(layer, NonDynamicallyQuantizableLinear):
            raise UserError(f"role '{role}': nn.MultiheadAttention takes the weight of {path} and never calls it: no "
                            "adapter can act there")  # fmt: skip
        if not isinstance(layer, nn.Linear | nn.LayerNorm):
            raise UserError(f"role '{role}': {path} is {type(layer).__name__}, not nn.Linear or nn.LayerNorm")
        if not isinstance(layer, Adapted) and type(layer).forward not in (nn.Linear.forward, nn.LayerNorm.forward):
            raise UserError(f"role '{role}': {path} is {type(layer).__name__}, with a forward "
                            "pass of its own: no adapter can act there")  # fmt: skip
        if layer.weight is None:
            raise UserError(f"role '{role}': {path} has no weight")
        if len(model.get_parameter(f"{path}.weight")) % place.parts:
            raise UserError(f"role '{role}': the rows of {path} cannot be cut into {place.parts} equal parts")
    return list(found)


def stacks_for(model: nn.Module, roles: Sequence[str], blocks: Sequence[int] | None = None) -> list[Stack]:
    """Stacks of `roles` in `blocks`, block by block: one for each shape, since the blocks of some networks differ.

    Args:
        model: the network.
        roles: of its backbone; their slices must have one shape in each block.
        blocks: block indices; None for all.

    Returns:
        The stacks in order of appearance; none for a word without roles in this network.

    Raises:
        UserError: an unknown network or role, a block that does not exist, slices of different shapes in a block.
    """
    backbone = backbone_of(model)
    for role in roles:
        backbone.check_role(role)
    if not roles:
        raise UserError(f"roles=[]: name at least one of {', '.join(backbone.roles)}")
    layers = {role: layers_of(model, role, place) for role, place in backbone.roles.items()}
    depth = max(map(len, layers.values()))
    chosen = list(range(depth)) if blocks is None else list(blocks) if isinstance(blocks, Sequence) else []
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(depth)):
        raise UserError(f"blocks={blocks}: name different blocks of 0 to {depth - 1}, or null for all")
    roles = backbone.spelt_out(roles)
    groups: dict[tuple[int, int], list[Slot]] = {}
    for block in chosen:
        shapes: dict[str, tuple[int, int]] = {}
        for role in roles:
            place, paths = backbone.roles[role], layers[role]
            if len(paths) not in (1, depth):
                raise UserError(f"role '{role}' stands for {len(paths)} layers, but there are {depth} blocks: one a "
                                "block is needed, or one in all")  # fmt: skip
            if len(paths) == 1 < depth and block != chosen[-1]:
                continue
            path = paths[block if len(paths) == depth else 0]
            rows, *columns = model.get_parameter(f"{path}.weight").shape
            height = rows // place.parts
            shapes[role] = height, columns[0] if columns else 0
            slot = Slot(block, role, path, place.part * height, (place.part + 1) * height)
            groups.setdefault(shapes[role], []).append(slot)
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{r} {rows}" + f" x {inner}" * bool(inner) for r, (rows, inner) in shapes.items())
            raise UserError(f"roles={list(roles)} have slices of different shapes ({listed}): give each its own stack")
    return [
        Stack(tuple(slots), tuple(dict.fromkeys(s.block for s in slots)), tuple(roles),
              backbone.heads(model, slots[0].linear), *shape)
        for shape, slots in groups.items()
    ]  # fmt: skip


def named_stacks(name: str, stacks: Sequence[Stack]) -> dict[str, Stack]:
    """Named stacks: one is called `name`, several `name_1`, `name_2`, ..."""
    return {name if len(stacks) == 1 else f"{name}_{i}": stack for i, stack in enumerate(stacks, 1)}


def stacked_weights(model: nn.Module, stack: Stack) -> Tensor:
    """Weights of `model` in a stack (slices, out, in), or (slices, out) of LayerNorms: a copy, at least float32."""
    rows = [model.get_parameter(f"{s.linear}.weight").detach()[s.first : s.last] for s in stack.slots]
    weights = torch.stack(rows)
    return weights.to(torch.promote_types(weights.dtype, torch.float32))
