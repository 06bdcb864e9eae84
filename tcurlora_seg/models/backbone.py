"""The backbone seam: what this package has to know of a kind of network, in one object.

A network's file holds its builder, which `model._target_` names, and a `Backbone` called `BACKBONE`. Nothing heavy is
imported until a network is built, so that sizes and roles can be checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.target import backbone_of_target
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

_KNOWN = {  # other packages' classes -> file here
    "monai.networks.nets.unetr.UNETR": "tcurlora_seg.models.unetr",
    "monai.networks.nets.swin_unetr.SwinUNETR": "tcurlora_seg.models.swin_unetr",
    "dynamic_network_architectures.architectures.primus.Primus": "tcurlora_seg.models.primus",
}


@dataclass(frozen=True)
class Role:
    """The layers that a role stands for.

    Attributes:
        layer: glob over dotted paths of linear layers or LayerNorms (`*` never crosses a dot): one layer in each
            transformer block, in order of appearance. A single layer is one that comes once; it counts as a part of
            the last block that is adapted.
        part: which of the equal parts of its rows, from 0.
        parts: how many parts there are.
    """

    layer: str
    part: int = 0
    parts: int = 1


class Backbone:
    """Facts of one kind of network. A new network gives its own by a subclass.

    Attributes:
        head: parameters of the output layer; they start afresh for another number of classes.
        inputs: weights (out, in, x, y, z) that see the image's channels.
        roles: role -> layers; empty for a network without transformer blocks.
        words: words that `stacks` may use for several roles at once, or for none that the network has.
        groups: words that `trainable` knows -> globs over parameters. `decoder` is what every adapter trains besides.
        encoder: globs over the parameters that a pre-trained encoder must hold. A file with nothing of the decoder is
            one: what it lacks besides starts afresh, and what it has besides is left aside.
        window_argument: the builder's argument that the window is given by; None for a network of any window.
        multiple: what the sides of a window are multiples of, two of it at least.
        exported: dotted path of the class that takes the exported weights.
    """

    head: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[Mapping[str, Role]] = {}
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    encoder: ClassVar[tuple[str, ...]] = ("**",)
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    window_argument: ClassVar[str | None] = None
    multiple: ClassVar[int] = 16
    exported: ClassVar[str] = ""

    def window(self, model: Mapping[str, Any]) -> list[int]:
        """The window that a model configuration has by itself: three sides in voxels."""
        return list(model[self.window_argument or "window"])

    def check(self, model: Mapping[str, Any], window: Sequence[int]) -> None:
        """Refuse sizes that cannot be built; called before torch is imported.

        Raises:
            UserError: the text names the key of the model configuration.
        """

    def role_shape(self, role: str, model: Mapping[str, Any]) -> tuple[int, int] | None:
        """(out, in) of a role's slices by the model configuration alone, the narrowest where blocks differ; None where
        only the network knows."""
        return None

    def heads(self, network: nn.Module, layer: str) -> int:
        """Attention heads of the block that a layer is in: what the nearest module around it says, 1 if none does."""
        while layer:
            layer = layer.rpartition(".")[0]
            for module in network.get_submodule(layer).modules():
                heads = getattr(module, "num_heads", getattr(module, "num_attention_heads", None))
                if isinstance(heads, int):
                    return heads
        return 1

    def is_unused(self, name: str) -> bool:
        """Whether the network holds the parameter but never computes with it; such ones stay frozen, or DDP fails."""
        return False

    def is_stale(self, name: str) -> bool:
        """Whether files hold the tensor, but no network needs to be given it."""
        return False

    def fit(self, name: str, given: Tensor, network: nn.Module) -> Tensor | None:
        """A file's tensor of another size made to fit, such as position embeddings; None if there is no way."""
        return None

    def converted(self, tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """A file's tensors as this network has and names them, where other code has the same layers otherwise."""
        return tensors

    def preparation(self, pretrained: str) -> dict[str, Any]:
        """What `dataset.preparation` must be for the images to look as they did to a file's weights."""
        return {}

    def finish_merge(self, network: nn.Module) -> None:
        """What a merged copy needs besides, in place."""

    def arguments(self, network: nn.Module, built: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the class `exported`.

        Args:
            network: the merged network.
            built: what its builder was called with.
        """
        return dict(built)

    def check_role(self, role: str) -> None:
        """Refuse a role that no block has.

        Raises:
            UserError: the text names the known ones.
        """
        if role not in self.roles and role not in self.words:
            known = f"choose from {', '.join(self.roles)}" if self.roles else "this network has no transformer blocks"
            raise UserError(f"unknown role '{role}': {known}")

    def spelt_out(self, roles: Sequence[str]) -> list[str]:
        """Roles, the words in `words` replaced by theirs."""
        return [role for word in roles for role in self.words.get(word, (word,))]

    def globs(self, patterns: Sequence[str]) -> list[str]:
        """Globs over parameters, the words in `groups` replaced by theirs."""
        return [glob for pattern in patterns for glob in self.groups.get(pattern, (pattern,))]


def backbone_of(network: Any) -> Backbone:
    """The facts of a network: its own, if it says `described_by`, or those of a known class of another package.

    Raises:
        UserError: neither.
    """
    own = getattr(network, "described_by", None)
    if isinstance(own, Backbone):
        return own
    for kind in type(network).__mro__:
        module = _KNOWN.get(f"{kind.__module__}.{kind.__qualname__}")
        if module:
            return import_module(module).BACKBONE
    known = ", ".join(name.rsplit(".", 1)[1] for name in _KNOWN)
    raise UserError(f"{type(network).__name__} is no network that is known here: {known}, or one with `described_by`")


def window_of(config: Any) -> list[int]:
    """The window of a run: three sides in voxels, the model's own where the configuration names none."""
    return list(config.get("window") or backbone_of_target(config.model["_target_"]).window(config.model))


def build_network(model: Mapping[str, Any], window: Sequence[int], *, in_channels: int, out_channels: int) -> Any:
    """A randomly started network.

    Args:
        model: its configuration.
        window: three sides in voxels.
        in_channels: image channels.
        out_channels: classes, background included.
    """
    from hydra.utils import instantiate

    arguments = builder_arguments(model, window, in_channels=in_channels, out_channels=out_channels)
    return instantiate({"_target_": model["_target_"], **arguments})


def builder_arguments(
    model: Mapping[str, Any], window: Sequence[int], *, in_channels: int, out_channels: int
) -> dict[str, Any]:
    """What the builder of a model configuration is called with; the arguments are those of `build_network`."""
    plain: Any = OmegaConf.to_container(model, resolve=True) if isinstance(model, DictConfig) else model
    named = backbone_of_target(plain["_target_"]).window_argument
    sizes = {"in_channels": in_channels, "out_channels": out_channels, **({named: list(window)} if named else {})}
    return {**{key: value for key, value in plain.items() if key not in ("_target_", "window")}, **sizes}
