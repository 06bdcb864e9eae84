"""Primus, the transformer of nnU-Net's authors (dynamic_network_architectures): builder and backbone description.

Wald et al. 2025, https://arxiv.org/abs/2503.01835. Pre-trained encoders of it are the OpenMind models.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json
from tcurlora_seg.models.backbone import Backbone, Role

if TYPE_CHECKING:
    from torch import Tensor, nn

PATCH = 8
PLAN = "adaptation_plan.json"
_BLOCK = "eva.blocks.*"
_LAYERS = ("decode.0.0", "decode.0.1", "decode.1.0", "decode.1.1", "decode.2")


def build_primus(
    *, in_channels: int, out_channels: int, window: list[int], embed_dim: int, depth: int, num_heads: int
) -> nn.Module:
    """A randomly initialised Primus with patches of 8 voxels a side.

    Args:
        in_channels: image channels.
        out_channels: classes, background included.
        window: three sides of the input in voxels, multiples of 8.
        embed_dim: width of the tokens, a multiple of 6 `num_heads`.
        depth: transformer blocks.
        num_heads: attention heads.

    Raises:
        UserError: a size that the network cannot have, or the package is not installed.
    """
    sizes = {"in_channels": in_channels, "out_channels": out_channels, "embed_dim": embed_dim, "depth": depth,
             "num_heads": num_heads}  # fmt: skip
    BACKBONE.check(sizes, window)
    from dynamic_network_architectures.architectures.primus import Primus

    return Primus(**_arguments({**sizes, "window": window}))


def _arguments(built: Mapping[str, Any]) -> dict[str, Any]:
    return {"input_channels": built["in_channels"], "num_classes": built["out_channels"],
            "embed_dim": built["embed_dim"], "eva_depth": built["depth"], "eva_numheads": built["num_heads"],
            "patch_embed_size": [PATCH] * 3, "input_shape": list(built["window"])}  # fmt: skip


class PrimusBackbone(Backbone):
    """Backbone description of Primus.

    Roles: `q k v o`; the gated MLP's `fc1_g` (gate), `fc1_x` (value) and `fc2`, under the names of other networks `up`
    for the first two and `down`; the LayerNorms `norm1` (before the attention), `norm2` (before the MLP), `norm_mlp`
    (inside it) and `norm` (after the last block). `qkv` stands for the separate layers q, k and v.
    """

    # the decoder's widths follow from the number of classes
    head = tuple(f"up_projection.{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias"))
    inputs = ("down_projection.proj.weight",)
    roles: ClassVar = {
        "q": Role(f"{_BLOCK}.attn.q_proj"),
        "k": Role(f"{_BLOCK}.attn.k_proj"),
        "v": Role(f"{_BLOCK}.attn.v_proj"),
        "o": Role(f"{_BLOCK}.attn.proj"),
        "fc1_g": Role(f"{_BLOCK}.mlp.fc1_g"),
        "fc1_x": Role(f"{_BLOCK}.mlp.fc1_x"),
        "fc2": Role(f"{_BLOCK}.mlp.fc2"),
        "norm1": Role(f"{_BLOCK}.norm1"),
        "norm2": Role(f"{_BLOCK}.norm2"),
        "norm_mlp": Role(f"{_BLOCK}.mlp.norm"),
        "norm": Role("eva.norm"),
    }
    words: ClassVar = {"qkv": ("q", "k", "v"), "up": ("fc1_g", "fc1_x"), "down": ("fc2",)}
    groups: ClassVar = {
        "decoder": ("up_projection.**",),
        "mlps": (f"{_BLOCK}.mlp.fc*.*",),
        "biases": ("eva.**.bias",),
        "layernorms": (f"{_BLOCK}.norm*.*", f"{_BLOCK}.mlp.norm.*", "eva.norm.*"),
    }
    encoder = ("down_projection.**", "eva.**")
    window_argument = "window"
    multiple = PATCH
    exported = "dynamic_network_architectures.architectures.primus.Primus"

    def check(self, model: Mapping[str, Any], window: Sequence[int]) -> None:
        """Check the sizes for `build_primus`, and that its package is installed."""
        needed = ("dynamic_network_architectures", *(() if "timm" in sys.modules else ("timm", "torchvision")))
        lacking = [package for package in needed if find_spec(package) is None]
        if lacking:
            raise UserError(f"model: Primus needs {', '.join(lacking)}: pip install 'tcurlora-seg[primus]'")
        if len(window) != 3 or any(side % PATCH or side < PATCH for side in window):
            raise UserError(f"window={list(window)}: three sides are needed, each a multiple of {PATCH}")
        for name in ("embed_dim", "depth", "num_heads"):
            if model[name] < 1:
                raise UserError(f"model.{name}={model[name]}: at least 1 is needed")
        # two thirds of a head turn with the position, in pairs of sine and cosine
        if model["embed_dim"] % (6 * model["num_heads"]):
            raise UserError(f"model.embed_dim={model['embed_dim']}: a multiple of 6 model.num_heads="
                            f"{6 * model['num_heads']} is needed")  # fmt: skip

    def role_shape(self, role: str, model: Mapping[str, Any]) -> tuple[int, int]:
        """(out, in) of a role's slices; (out, 0) for a LayerNorm."""
        width, inner = model["embed_dim"], int(model["embed_dim"] * (4 * 2 / 3))
        shapes = {"fc1_g": (inner, width), "fc1_x": (inner, width), "fc2": (width, inner), "norm_mlp": (inner, 0)}
        return shapes.get(role, (width, 0 if role.startswith("norm") else width))

    def is_stale(self, name: str) -> bool:
        """The mask token of masked pre-training, which segmentation does not use."""
        return name == "mask_token"

    def fit(self, name: str, given: Tensor, network: Any) -> Tensor | None:
        """Position embeddings for another window; rotary ones need no resizing."""
        from tcurlora_seg.models.pretrained import resize_positions

        if name != "eva.pos_embed" or given.ndim != 3:
            return None
        return resize_positions(given, network.eva.rope.feat_shape)

    def converted(self, tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Tensors of a masked autoencoder without its reconstruction head `up_projection`."""
        autoencoder = any(name.startswith("decoder.") for name in tensors)
        return {n: t for n, t in tensors.items() if not (autoencoder and n.startswith("up_projection."))}

    def preparation(self, pretrained: str) -> dict[str, Any]:
        """Voxel size and normalisation from the plan that nnssl writes beside its weights.

        Raises:
            UserError: a plan of another layout, or with an unsupported normalisation.
        """
        path = Path(pretrained).parent / PLAN
        if not Path(pretrained).is_file() or not path.is_file():
            return {}
        try:
            plan = next(iter(read_json(path)["pretrain_plan"]["configurations"].values()))
            spacing, schemes, masked = (plan[key] for key in ("spacing", "normalization_schemes", "use_mask_for_norm"))
        except (KeyError, TypeError, AttributeError, StopIteration) as error:
            raise UserError(f"{path} is no plan of nnssl: pretrain_plan.configurations is missing or empty") from error
        if ({schemes} if isinstance(schemes, str) else set(schemes)) != {"ZScoreNormalization"}:
            raise UserError(f"{path}: normalization_schemes={schemes}: ZScoreNormalization alone is known here")
        return {"spacing": None if spacing is None else [float(size) for size in spacing], "limits": None,
                "intensity": "zscore" if masked and all(masked) else "zscore_image"}  # fmt: skip

    def arguments(self, network: nn.Module, built: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments of `Primus`.

        Raises:
            UserError: the method shifts k, whose layers have no bias in the class.
        """
        if any(name.endswith("k_proj.bias") for name in network.state_dict()):
            raise UserError("Primus has no bias for k, which this run's method shifts: no plain Primus can take its "
                            "weights; scripts/predict.py can use the run")  # fmt: skip
        return _arguments(built)


BACKBONE = PrimusBackbone()
