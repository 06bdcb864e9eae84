"""User-described transformers: roles for networks that the package does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import Backbone, Role, backbone_of
from tcurlora_seg.models.stacking import layers_of, stacks_for


class Described(Backbone):
    """Backbone description from roles alone.

    There is no decoder group: only the adapters train, unless `trainable` names more.
    """

    def __init__(self, network: nn.Module, roles: Mapping[str, Role]) -> None:
        layers = {role: layers_of(network, role, place) for role, place in roles.items()}
        modules = network.named_modules()
        norms = [name for name, m in modules if isinstance(m, nn.LayerNorm) and m.weight is not None]
        groups = {
            "decoder": (),
            "mlps": tuple(f"{path}.*" for role in ("up", "down") for path in layers.get(role, ())),
            "biases": ("**.bias",),
            "layernorms": tuple(f"{name}.*" for name in norms),
        }
        vars(self).update(roles=dict(roles), groups=groups)  # class variables of the other backbones


def describe(model: nn.Module, roles: Mapping[str, str | Role | tuple[str, int, int]]) -> None:
    """Declare the roles of an unknown transformer; afterwards it can be adapted like any other.

        tcurlora_seg.describe(vit, {"q": ("blocks.*.attn.qkv", 0, 3), "up": "blocks.*.mlp.fc1"})

    Args:
        model: the network.
        roles: role -> glob over the dotted paths of its linear layers, one in each block; for a fused layer
            (glob, part, parts): the index of the part of its rows, from 0, and the number of equal parts. See `Role`.

    Raises:
        UserError: a glob that matches no layer or one that no adapter can act on, a name that is no word.
    """
    named = {}
    for name, place in roles.items():
        if not name.isidentifier():
            raise UserError(f"roles: '{name}' cannot name a role: take one word")
        try:
            named[name] = place if isinstance(place, Role) else Role(place) if isinstance(place, str) else Role(*place)
        except TypeError as error:
            raise UserError(f"roles: {name}={place!r} is neither a glob nor (glob, part, parts)") from error
    if not named:
        raise UserError("roles is empty: name at least one, such as {'q': 'blocks.*.attn.q'}")
    model.described_by = Described(model, named)  # type: ignore[assignment]


def stacks_by_shape(model: nn.Module) -> dict[str, Any]:
    """Stacks of all roles of equal shape, in the form of `adapter.stacks`."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for role in backbone_of(model).roles:
        alike.setdefault(tuple(stack.shape for stack in stacks_for(model, [role])), []).append(role)
    return {"_".join(roles): {"roles": roles} for roles in alike.values()}
