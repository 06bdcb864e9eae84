"""MONAI's UNETR: builder and backbone description."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import Backbone, Role

if TYPE_CHECKING:
    from monai.networks.nets import UNETR
    from torch import Tensor, nn

PATCH = 16
POSITIONS = "vit.patch_embedding.position_embeddings"
_EMBEDDING = "vit.patch_embedding.patch_embeddings"
_BLOCK = "vit.blocks.*"
_NO_SIZES = ("_target_", "img_size", "dropout_rate", "qkv_bias")
_FIRST = re.compile(r"((?:.*\.)?)blocks\.0\.attn\.qkv\.weight")
_TIMM = {".attn.proj.": ".attn.out_proj.", ".mlp.fc": ".mlp.linear", "vit.pos_embed": POSITIONS,
         "vit.patch_embed.proj.": f"{_EMBEDDING}."}  # fmt: skip
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
    qkv_bias: bool = False,
) -> UNETR:
    """A randomly initialised UNETR of 12 blocks and patches of 16 voxels a side.

    Args:
        in_channels: image channels.
        out_channels: classes, background included.
        img_size: three sides of the input in voxels, multiples of 16.
        feature_size: channels of the decoder at full resolution.
        hidden_size: width of the tokens.
        mlp_dim: width inside the blocks' MLPs.
        num_heads: attention heads; divides `hidden_size`.
        dropout_rate: share of dropped units while training.
        qkv_bias: whether the layers of q, k and v have a bias.

    Raises:
        UserError: a size that the network cannot have.
    """
    from monai.networks.nets import UNETR

    sizes: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels, "feature_size": feature_size,
             "hidden_size": hidden_size, "mlp_dim": mlp_dim, "num_heads": num_heads,
             "dropout_rate": dropout_rate, "qkv_bias": qkv_bias}  # fmt: skip
    BACKBONE.check(sizes, img_size)
    model = UNETR(img_size=tuple(img_size), **sizes)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not BACKBONE.is_unused(name))
    return model


class UNETRBackbone(Backbone):
    """Backbone description of MONAI's UNETR.

    Roles: `q k v o up down`, `qkv` for the fused matrix, the LayerNorms `norm1` (before the attention) and `norm2`
    (before the MLP) of every block, and `norm` (after the last block).
    """

    head = ("out.conv.conv.weight", "out.conv.conv.bias")
    inputs = (
        "vit.patch_embedding.patch_embeddings.weight",
        "encoder1.layer.conv1.conv.weight",
        "encoder1.layer.conv3.conv.weight",
    )
    roles: ClassVar = {
        "q": Role(f"{_BLOCK}.attn.qkv", 0, 3),
        "k": Role(f"{_BLOCK}.attn.qkv", 1, 3),
        "v": Role(f"{_BLOCK}.attn.qkv", 2, 3),
        "qkv": Role(f"{_BLOCK}.attn.qkv"),
        "o": Role(f"{_BLOCK}.attn.out_proj"),
        "up": Role(f"{_BLOCK}.mlp.linear1"),
        "down": Role(f"{_BLOCK}.mlp.linear2"),
        "norm1": Role(f"{_BLOCK}.norm1"),
        "norm2": Role(f"{_BLOCK}.norm2"),
        "norm": Role("vit.norm"),
    }
    groups: ClassVar = {
        "decoder": ("decoder*.**", "out.**"),
        "mlps": ("vit.blocks.*.mlp.**",),
        "biases": ("vit.**.bias",),
        "layernorms": ("vit.blocks.*.norm*.*", "vit.norm.*"),
    }
    encoder = ("vit.blocks.**", "vit.norm.*")
    transformer = "vit"
    window_argument = "img_size"
    exported = "monai.networks.nets.UNETR"

    def check(self, model: Mapping[str, Any], window: Sequence[int]) -> None:
        """Check the sizes for `build_unetr`."""
        # a single patch along a side leaves instance normalisation without statistics
        if len(window) != 3 or any(side % PATCH or side < 2 * PATCH for side in window):
            key = "window" if list(model.get("img_size", window)) != list(window) else "model.img_size"
            raise UserError(
                f"{key}={list(window)}: three sides are needed, each a multiple of {PATCH} and at least "
                f"{2 * PATCH}"
            )
        sizes = {key: size for key, size in model.items() if key not in _NO_SIZES}
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"model.{name}={size}: at least 1 is needed")
        if sizes["hidden_size"] % sizes["num_heads"]:
            raise UserError(
                f"model.hidden_size={sizes['hidden_size']} must be a multiple of model.num_heads={sizes['num_heads']}"
            )
        if not 0 <= model["dropout_rate"] < 1:
            raise UserError(f"model.dropout_rate={model['dropout_rate']} must be at least 0 and below 1")

    def role_shape(self, role: str, model: Mapping[str, Any]) -> tuple[int, int]:
        """(out, in) of a role's slices; (out, 0) for a LayerNorm."""
        self.check_role(role)
        hidden, mlp = model["hidden_size"], model["mlp_dim"]
        shapes = {"qkv": (3 * hidden, hidden), "out_proj": (hidden, hidden), "linear1": (mlp, hidden),
                  "linear2": (hidden, mlp)}  # fmt: skip
        rows, columns = shapes.get(self.roles[role].layer.rpartition(".")[2], (hidden, 0))
        return rows // self.roles[role].parts, columns

    def is_unused(self, name: str) -> bool:
        return _UNUSED.fullmatch(name) is not None

    def is_stale(self, name: str) -> bool:
        """The cross-attention that every block had up to MONAI 1.5."""
        return _STALE.fullmatch(name) is not None

    def fit(self, name: str, given: Tensor, network: Any) -> Tensor | None:
        """Position embeddings for another window (see `resize_positions`)."""
        from tcurlora_seg.models.pretrained import resize_positions

        return resize_positions(given, network.feat_size) if name == POSITIONS and given.ndim == 3 else None

    def converted(self, tensors: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
        """Tensors of an encoder under UNETR's names, with a linear patch embedding as a convolution.

        The linear layer (`proj_type="perceptron"`) sees the voxels of a patch in the order (x, y, z, channel).
        """
        tensors = self._renamed(tensors, {name for name, _ in network.named_parameters()})
        linear, bias = (tensors.get(f"{_EMBEDDING}.1.{part}") for part in ("weight", "bias"))
        try:
            wanted = network.get_parameter(f"{_EMBEDDING}.weight").shape
        except AttributeError:  # a linear layer here, too
            return tensors
        if linear is None or bias is None or linear.ndim != 2 or linear.shape[1] % math.prod(wanted[2:]):
            return tensors
        others = {name: t for name, t in tensors.items() if not name.startswith(f"{_EMBEDDING}.1.")}
        weight = linear.reshape(len(linear), *wanted[2:], -1).movedim(-1, 1)
        return {**others, f"{_EMBEDDING}.weight": weight.contiguous(), f"{_EMBEDDING}.bias": bias}

    def _renamed(self, tensors: dict[str, Tensor], known: set[str]) -> dict[str, Tensor]:
        """Tensors of a ViT encoder with any prefix before `blocks.`, in the names of MONAI or timm."""
        prefixes = [match[1] for name in tensors if (match := _FIRST.fullmatch(name)) and "decoder" not in name]
        if not prefixes or "vit." in prefixes:
            return tensors
        named = {}
        for name, tensor in tensors.items():
            ours = f"vit.{name.removeprefix(prefixes[0])}"
            for theirs, monais in _TIMM.items():
                ours = ours.replace(theirs, monais)
            kept = ours in known or ours.startswith(("vit.blocks.", "vit.norm.", f"{_EMBEDDING}.1."))
            named[ours if kept and name.startswith(prefixes[0]) else name] = tensor
        return named

    def finish_merge(self, network: Any) -> None:
        """Add a bias of zeros to every `attn.qkv` if any has a bias: `qkv_bias` holds for all blocks or none."""
        import torch

        layers = [block.attn.qkv for block in network.vit.blocks]
        if any(layer.bias is not None for layer in layers):
            for layer in layers:
                if layer.bias is None:
                    layer.bias = torch.nn.Parameter(layer.weight.new_zeros(len(layer.weight)))

    def arguments(self, network: nn.Module, built: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments of MONAI's class; a shift of q, k or v needs `qkv_bias`."""
        sizes = {key: value for key, value in built.items() if key != "dropout_rate"}
        return {**sizes, "qkv_bias": any(name.endswith("attn.qkv.bias") for name in network.state_dict())}


BACKBONE = UNETRBackbone()
