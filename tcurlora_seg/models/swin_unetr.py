"""MONAI's SwinUNETR: builder, backbone description, and layouts of public checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import Backbone, Role

if TYPE_CHECKING:
    from monai.networks.nets import SwinUNETR
    from torch import Tensor, nn

STRIDE = 32
_BLOCK = "swinViT.layers*.0.blocks.*"
_ENCODER = re.compile(r"(?:swinViT\.|encoder\.)?((?:patch_embed|layers[1-4]c?)\..*)")


def build_swin_unetr(
    *,
    in_channels: int,
    out_channels: int,
    window: list[int],
    feature_size: int,
    depths: list[int],
    num_heads: list[int],
    use_v2: bool = False,
) -> SwinUNETR:
    """A randomly initialised SwinUNETR of four stages; each doubles the width and halves the sides.

    Args:
        in_channels: image channels.
        out_channels: classes, background included.
        window: three sides of the crops in voxels, multiples of 32; the weights do not depend on them.
        feature_size: width of the first stage, a multiple of 12.
        depths: blocks of the four stages.
        num_heads: attention heads of the four stages.
        use_v2: a convolution block before every stage.

    Raises:
        UserError: a size that the network cannot have.
    """
    from monai.networks.nets import SwinUNETR

    sizes: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels, "feature_size": feature_size,
             "depths": list(depths), "num_heads": list(num_heads), "use_v2": use_v2}  # fmt: skip
    BACKBONE.check(sizes, window)
    return SwinUNETR(**sizes)


class SwinUNETRBackbone(Backbone):
    """Backbone description of MONAI's SwinUNETR.

    Its blocks have four widths, so a stack of `q k v o`, `up`, `down` or `qkv` becomes one for each stage. The
    LayerNorms are the blocks' `norm1` and `norm2`; unlike a ViT it has none after the last block. The patch merging
    between the stages has no role.
    """

    head = ("out.conv.conv.weight", "out.conv.conv.bias")
    inputs = ("swinViT.patch_embed.proj.weight", "encoder1.layer.conv1.conv.weight", "encoder1.layer.conv3.conv.weight")
    roles: ClassVar = {
        "q": Role(f"{_BLOCK}.attn.qkv", 0, 3),
        "k": Role(f"{_BLOCK}.attn.qkv", 1, 3),
        "v": Role(f"{_BLOCK}.attn.qkv", 2, 3),
        "qkv": Role(f"{_BLOCK}.attn.qkv"),
        "o": Role(f"{_BLOCK}.attn.proj"),
        "up": Role(f"{_BLOCK}.mlp.linear1"),
        "down": Role(f"{_BLOCK}.mlp.linear2"),
        "norm1": Role(f"{_BLOCK}.norm1"),
        "norm2": Role(f"{_BLOCK}.norm2"),
    }
    words: ClassVar = {"norm": ()}
    groups: ClassVar = {
        "decoder": ("decoder*.**", "out.**"),
        "mlps": (f"{_BLOCK}.mlp.**",),
        "biases": ("swinViT.**.bias",),
        "layernorms": (f"{_BLOCK}.norm*.*", "swinViT.layers*.0.downsample.norm.*"),
    }
    encoder = ("swinViT.**",)
    window_argument = "window"
    multiple = STRIDE
    exported = "monai.networks.nets.SwinUNETR"

    def check(self, model: Mapping[str, Any], window: Sequence[int]) -> None:
        """Check the sizes for `build_swin_unetr`."""
        # a single voxel behind the last stage leaves instance normalisation without statistics
        if len(window) != 3 or any(side % STRIDE or side < STRIDE for side in window) or max(window) == STRIDE:
            raise UserError(f"window={list(window)}: three sides are needed, each a multiple of {STRIDE} and at least "
                            f"one above {STRIDE}")  # fmt: skip
        if model["feature_size"] < 12 or model["feature_size"] % 12:
            raise UserError(f"model.feature_size={model['feature_size']}: a multiple of 12 is needed")
        for name in ("depths", "num_heads"):
            if len(model[name]) != 4 or min(model[name]) < 1:
                raise UserError(f"model.{name}={list(model[name])}: four numbers are needed, each at least 1")
        for stage, heads in enumerate(model["num_heads"]):
            if model["feature_size"] * 2**stage % heads:
                raise UserError(f"model.num_heads={list(model['num_heads'])}: the width of stage {stage + 1}, "
                                f"{model['feature_size'] * 2**stage}, is no multiple of {heads}")  # fmt: skip

    def role_shape(self, role: str, model: Mapping[str, Any]) -> tuple[int, int]:
        """(out, in) of a role's slices in the first stage; (out, 0) for a LayerNorm."""
        width = model["feature_size"]
        shapes = {"qkv": (3 * width, width), "up": (4 * width, width), "down": (width, 4 * width)}
        return shapes.get(role, (width, 0 if role.startswith("norm") else width))

    def is_stale(self, name: str) -> bool:
        """The index of relative positions, which is computed from the attention's window."""
        return name.endswith(".relative_position_index")

    def converted(self, tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Tensors of an encoder under MONAI's names; public files have `swinViT.`, `encoder.` or no prefix."""
        named = {}
        for name, tensor in tensors.items():
            name = name.removeprefix("module.")
            if match := _ENCODER.fullmatch(name):
                name = f"swinViT.{match[1]}".replace(".0.0.blocks.", ".0.blocks.").replace(".mlp.fc", ".mlp.linear")
            named[name] = tensor
        return named

    def arguments(self, network: nn.Module, built: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments of MONAI's class, which takes any window."""
        return {key: value for key, value in built.items() if key != "window"}


BACKBONE = SwinUNETRBackbone()
