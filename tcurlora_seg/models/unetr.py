"""MONAI's UNETR: building it, and the only place that knows the names of its parts.

Nothing heavy is imported until a network is built, so that sizes and roles can be checked at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    import torch
    from monai.networks.nets import UNETR
    from torch import nn

PATCH = 16
ROLES = {  # role: the layer inside a block, which of how many equal parts of its rows
    "q": ("attn.qkv", 0, 3),
    "k": ("attn.qkv", 1, 3),
    "v": ("attn.qkv", 2, 3),
    "qkv": ("attn.qkv", 0, 1),
    "o": ("attn.out_proj", 0, 1),
    "up": ("mlp.linear1", 0, 1),
    "down": ("mlp.linear2", 0, 1),
    "norm1": ("norm1", 0, 1),
    "norm2": ("norm2", 0, 1),
    "norm": ("norm", 0, 1),
}
FINAL = "norm"  # the role that comes once, behind the last block
POSITIONS = "vit.patch_embedding.position_embeddings"
INPUTS = (  # weights (out, in, x, y, z) that see the image's channels
    "vit.patch_embedding.patch_embeddings.weight",
    "encoder1.layer.conv1.conv.weight",
    "encoder1.layer.conv3.conv.weight",
)
HEAD = ("out.conv.conv.weight", "out.conv.conv.bias")
_UNUSED = re.compile(r"vit\.blocks\.\d+\.norm_cross_attn\.(weight|bias)")
_STALE = re.compile(r"vit\.blocks\.\d+\.cross_attn\.(to_q|to_k|to_v|out_proj)\.(weight|bias)")


def build_unetr(
    *,
    in_channels: int,
    out_channels: int,
    img_size: list[int],
    feature_size: int,
    hidden_size: int,
    mlp_dim: int,
    num_heads: int,
    dropout_rate: float = 0.0,
) -> UNETR:
    """Build a randomly started UNETR of 12 blocks and patches of 16 voxels a side.

    Args:
        in_channels: image channels.
        out_channels: classes, background included.
        img_size: three sides of the input in voxels, multiples of 16.
        feature_size: channels of the decoder at full resolution.
        hidden_size: width of the tokens.
        mlp_dim: width inside the blocks' MLPs.
        num_heads: attention heads; divides `hidden_size`.
        dropout_rate: share of dropped units while training.

    Raises:
        UserError: a size that the network cannot have.
    """
    from monai.networks.nets import UNETR

    sizes: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels, "feature_size": feature_size,
             "hidden_size": hidden_size, "mlp_dim": mlp_dim, "num_heads": num_heads}  # fmt: skip
    check_sizes(img_size, dropout_rate, **sizes)
    model = UNETR(img_size=tuple(img_size), dropout_rate=dropout_rate, **sizes)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_unused(name))
    return model


def check_sizes(img_size: Sequence[int], dropout_rate: float, **sizes: int) -> None:
    """Refuse what `build_unetr` cannot build; the arguments are the same.

    Raises:
        UserError: a size that the network cannot have.
    """
    # a single patch along a side leaves instance normalisation without statistics
    if len(img_size) != 3 or any(side % PATCH or side < 2 * PATCH for side in img_size):
        raise UserError(
            f"model.img_size={list(img_size)}: three sides are needed, each a multiple of {PATCH} and at least "
            f"{2 * PATCH}"
        )
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"model.{name}={size}: at least 1 is needed")
    if sizes["hidden_size"] % sizes["num_heads"]:
        raise UserError(
            f"model.hidden_size={sizes['hidden_size']} must be a multiple of model.num_heads={sizes['num_heads']}"
        )
    if not 0 <= dropout_rate < 1:
        raise UserError(f"model.dropout_rate={dropout_rate} must be at least 0 and below 1")


def is_unused(name: str) -> bool:
    """Whether UNETR holds the parameter but never computes with it; such ones stay frozen, or DDP fails."""
    return _UNUSED.fullmatch(name) is not None


def is_stale(name: str) -> bool:
    """Whether MONAI up to 1.5 wrote the tensor without ever using it."""
    return _STALE.fullmatch(name) is not None


def grid(model: UNETR) -> tuple[int, ...]:
    """Patches along each axis, in the order in which the position embeddings run."""
    return tuple(model.feat_size)


def stack_for(model: nn.Module, roles: Sequence[str], blocks: Sequence[int] | None = None) -> Stack:
    """The stack of `roles` in `blocks`, block by block.

    Args:
        model: a MONAI UNETR.
        roles: of `q k v o up down`, or `qkv` for the fused matrix; their slices must have one shape. Also the
            LayerNorms `norm1` (before the attention) and `norm2` (before the MLP) of every block, and `norm`, which
            follows the last block and counts as a part of the last one chosen.
        blocks: block indices; None for all.

    Raises:
        UserError: not a UNETR, an unknown role, a block that does not exist, slices of different shapes.
    """
    from monai.networks.nets import UNETR

    if not isinstance(model, UNETR):
        raise UserError(f"a monai.networks.nets.UNETR is needed, not a {type(model).__name__}")
    depth = len(model.vit.blocks)
    chosen = tuple(range(depth) if blocks is None else blocks)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(depth)):
        raise UserError(f"blocks={list(chosen)}: name different blocks of 0 to {depth - 1}, or null for all")
    if not roles:
        raise UserError(f"roles=[]: name at least one of {', '.join(ROLES)}")
    slots, shapes = [], {}
    for block in chosen:
        for role in roles:
            check_role(role)
            if role == FINAL and block != chosen[-1]:
                continue
            inner, part, parts = ROLES[role]
            path = f"vit.{inner}" if role == FINAL else f"vit.blocks.{block}.{inner}"
            rows, *columns = model.get_parameter(f"{path}.weight").shape
            height = rows // parts
            slots.append(Slot(block, role, path, part * height, (part + 1) * height))
            shapes[role] = (height, *columns, 0)[:2]
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{role} {rows}" + f" x {inner}" * bool(inner) for role, (rows, inner) in shapes.items())
        raise UserError(f"roles={list(roles)} have slices of different shapes ({listed}): give each its own stack")
    out_features, in_features = shapes[roles[0]]
    first: Any = model.vit.blocks[0]
    return Stack(tuple(slots), chosen, tuple(roles), first.attn.num_heads, out_features, in_features)


def check_role(role: str) -> None:
    """Refuse a role that no block has.

    Raises:
        UserError: the text names the known ones.
    """
    if role not in ROLES:
        raise UserError(f"unknown role '{role}': choose from {', '.join(ROLES)}")


def role_shape(role: str, *, hidden_size: int, mlp_dim: int) -> tuple[int, int]:
    """(out, in) of the slices of a role, from the sizes of the network alone; (out, 0) for a LayerNorm."""
    check_role(role)
    layer, _, parts = ROLES[role]
    shapes = {"attn.qkv": (3 * hidden_size, hidden_size), "attn.out_proj": (hidden_size, hidden_size),
              "mlp.linear1": (mlp_dim, hidden_size), "mlp.linear2": (hidden_size, mlp_dim)}  # fmt: skip
    rows, columns = shapes.get(layer, (hidden_size, 0))
    return rows // parts, columns


def complete_qkv_biases(model: Any) -> None:
    """Give every `attn.qkv` a bias of zeros if any has one: UNETR's `qkv_bias` holds for all blocks or none."""
    import torch

    layers = [block.attn.qkv for block in model.vit.blocks]
    if any(layer.bias is not None for layer in layers):
        for layer in layers:
            if layer.bias is None:
                layer.bias = torch.nn.Parameter(layer.weight.new_zeros(len(layer.weight)))


def stacked_weights(model: nn.Module, stack: Stack) -> torch.Tensor:
    """The stack's tensor (slices, out, in), or (slices, out) of LayerNorms: a float32 copy at least of the weights."""
    import torch

    rows = [model.get_parameter(f"{s.linear}.weight").detach()[s.first : s.last] for s in stack.slots]
    weights = torch.stack(rows)
    return weights.to(torch.promote_types(weights.dtype, torch.float32))
