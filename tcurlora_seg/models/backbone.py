"""Backbone descriptions: the facts of a network family that the package needs, in one object.

A network's file holds its builder, which `model._target_` names, and a `Backbone` called `BACKBONE`. Heavy packages are
imported only when a network is built, so that checks of sizes and roles are fast.
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
    """Role: a kind of layer, or a part of its rows, across the transformer blocks.

    Attributes:
        layer: glob over dotted paths of linear layers or LayerNorms (`*` never crosses a dot): one layer in each
            transformer block, in order of appearance. A single layer is one that comes once; it counts as a part of
            the last block that is adapted.
        part: index of the part of its rows, from 0.
        parts: number of equal parts.
    """

    layer: str
    part: int = 0
    parts: int = 1


class Backbone:
    """Description of a network family; a new family is a subclass.

    Attributes:
        head: parameters of the output layer; they start afresh for another number of classes.
        inputs: weights (out, in, x, y, z) of the layers that take the image.
        roles: role -> layers; empty for a network without transformer blocks.
        words: words that `stacks` may use for several roles at once, or for none that the network has.
        groups: words of `trainable` -> globs over parameters. `decoder` trains beside every adapter.
        encoder: globs over the parameters that a pre-trained encoder must hold. A file without decoder tensors counts
            as an encoder: other missing parameters start afresh, and its other tensors are ignored.
        transformer: module that takes the image and whose `blocks` give (batch, patches, width), for patches of
            `multiple` voxels a side in the order of the axes; None where there is none.
        window_argument: the builder's argument for the window; None for a network of any window.
        multiple: common divisor of the sides of a window; an automatic window has at least twice its size.
        exported: dotted path of the class that loads the exported weights.
    """

    head: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[Mapping[str, Role]] = {}
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    encoder: ClassVar[tuple[str, ...]] = ("**",)
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    transformer: ClassVar[str | None] = None
    window_argument: ClassVar[str | None] = None
    multiple: ClassVar[int] = 16
    exported: ClassVar[str] = ""

    def window(self, model: Mapping[str, Any]) -> list[int]:
        """Default window of a model configuration: three sides in voxels."""
        return list(model[self.window_argument or "window"])

    def check(self, model: Mapping[str, Any], window: Sequence[int]) -> None:
        """Check that the network can be built; called before torch is imported.

        Args:
            model: the model configuration.
            window: three sides in voxels.

        Raises:
            UserError: the text names the key of the model configuration.
        """

    def role_shape(self, role: str, model: Mapping[str, Any]) -> tuple[int, int] | None:
        """Shape (out, in) of a role's slices; None where only the network knows it.

        Args:
            role: name of the role; where blocks differ, the shape is that of the narrowest.
            model: the model configuration.
        """
        return None

    def heads(self, network: nn.Module, layer: str) -> int:
        """Number of attention heads by the nearest module around `layer` (dotted path) that has it; 1 if none has."""
        while layer:
            layer = layer.rpartition(".")[0]
            for module in network.get_submodule(layer).modules():
                heads = getattr(module, "num_heads", getattr(module, "num_attention_heads", None))
                if isinstance(heads, int):
                    return heads
        return 1

    def is_unused(self, name: str) -> bool:
        """Whether the forward pass never uses a parameter; such ones stay frozen, or DDP fails."""
        return False

    def is_stale(self, name: str) -> bool:
        """Whether a file's tensor is obsolete: files hold it, but no network needs it."""
        return False

    def fit(self, name: str, given: Tensor, network: nn.Module) -> Tensor | None:
        """Resized tensor of a file, such as position embeddings for another window; None if it cannot be resized.

        Args:
            name: the parameter in the network.
            given: the file's tensor, of another shape.
            network: the network to fit.
        """
        return None

    def converted(self, tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """State-dict conversion: a file's tensors in the names and layouts of this network.

        Args:
            tensors: the file's tensors by name.
            network: the network that will load them.
        """
        return tensors

    def preparation(self, pretrained: str) -> dict[str, Any]:
        """Keys of `dataset.preparation` that repeat the preprocessing of the pre-training, by the file `pretrained`."""
        return {}

    def finish_merge(self, network: nn.Module) -> None:
        """Final in-place changes of a merged copy."""

    def arguments(self, network: nn.Module, built: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments of the class `exported`.

        Args:
            network: the merged network.
            built: arguments of its builder.
        """
        return dict(built)

    def check_role(self, role: str) -> None:
        """Check that a role exists.

        Raises:
            UserError: the text names the known ones.
        """
        if role not in self.roles and role not in self.words:
            known = f"choose from {', '.join(self.roles)}" if self.roles else "this network has no transformer blocks"
            raise UserError(f"unknown role '{role}': {known}")

    def spelt_out(self, roles: Sequence[str]) -> list[str]:
        """Roles, with the words in `words` expanded."""
        return [role for word in roles for role in self.words.get(word, (word,))]

    def globs(self, patterns: Sequence[str]) -> list[str]:
        """Globs over parameters, with the words in `groups` expanded."""
        return [glob for pattern in patterns for glob in self.groups.get(pattern, (pattern,))]


def backbone_of(network: Any) -> Backbone:
    """Backbone description of a network: its `described_by`, or that of a known class of another package.

    Raises:
        UserError: it has neither.
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
    """Window of a run: three sides in voxels, from the configuration or else the model's default."""
    return list(config.get("window") or backbone_of_target(config.model["_target_"]).window(config.model))


def build_network(model: Mapping[str, Any], window: Sequence[int], *, in_channels: int, out_channels: int) -> Any:
    """A randomly initialised network.

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
    """Arguments for the builder of a model configuration; see `build_network`."""
    plain: Any = OmegaConf.to_container(model, resolve=True) if isinstance(model, DictConfig) else model
    named = backbone_of_target(plain["_target_"]).window_argument
    sizes = {"in_channels": in_channels, "out_channels": out_channels, **({named: list(window)} if named else {})}
    return {**{key: value for key, value in plain.items() if key not in ("_target_", "window")}, **sizes}
