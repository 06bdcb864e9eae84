"""Model switching: several fine-tuned models on one base in memory, with scaled or added updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import safe_open
from torch import Tensor, nn

from tcurlora_seg.config.trust import check_trusted
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import backbone_of
from tcurlora_seg.models.checkpoint import load_model, read_metadata
from tcurlora_seg.models.injection import adapt_from_config
from tcurlora_seg.models.linear import Adapted, Attached


@dataclass(frozen=True)
class _Member:
    """Content of one model file: adapters, the layers that they act on, and trained tensors of the base."""

    adapters: dict[str, nn.Module]
    attached: dict[str, list[Attached]]
    tensors: dict[str, Tensor]
    label_map: dict[str, list[int]]


class Switch:
    """Switch between fine-tuned models of one network, in place and in milliseconds.

        switch = Switch(unetr)                                       # its base, loaded with load_pretrained
        switch.add("hippocampus", "run_a/model.safetensors")
        switch.use("hippocampus")                                    # unetr now segments what run_a was trained for

    W = W0 + sum of scale_i delta_i. Decoder, head and all other trained tensors of the base come unscaled from one
    file. The adapters stay unmerged: nothing is recomputed, the base keeps its tensors, and a switch back restores the
    same bits. It follows the network to another device or precision. `label_map` gives the label values of each output
    class, from the file of the decoder. `merged(unetr)` or `merge(unetr)` gives the base's speed. It is for inference:
    nothing trains.

    Args:
        network: the network with its base, without adapters; it stays the same object. It has the window of the
            files; its number of classes may differ.

    Raises:
        UserError: it has adapters, or no base.
    """

    def __init__(self, network: nn.Module) -> None:
        if hasattr(network, "adapters") or not hasattr(network, "base"):
            raise UserError("Switch needs a network without adapters whose weights load_pretrained has loaded")
        self.network: Any = network
        self._base = {name: parameter.data for name, parameter in network.named_parameters()}
        self._members: dict[str, _Member] = {}
        self.use(None)

    def __repr__(self) -> str:
        scales = self._scales
        shown = " + ".join(name if scale == 1 else f"{scale} {name}" for name, scale in scales.items()) or "the base"
        return f"Switch(in use: {shown}; models: {', '.join(self._members) or 'none'})"

    def add(self, name: str, path: str | Path, *, trust: Sequence[str] = ()) -> None:
        """Add a model file; the network is its plain base afterwards.

        Args:
            name: a new name, one word.
            path: the model file.
            trust: packages of one's own that it may name, see `check_trusted`.

        Raises:
            UserError: a name that is taken or no word, a file without its adapter's configuration, or one that
                `load_model` refuses, for example because of another base.
        """
        if name in self._members or not name.isidentifier():
            raise UserError(f"'{name}' is taken, or no single word: choose another name for {path}")
        notes = read_metadata(path)
        if "adapter" not in notes or "seed" not in notes:
            raise UserError(f"{path} does not say how its adapters are made: save it from a network that adapt made")
        check_trusted(OmegaConf.create({"adapter": notes["adapter"]}), path, trust=trust)
        with safe_open(path, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        self.use(None)
        network, head = self.network, backbone_of(self.network).head
        for key, parameter in network.named_parameters():
            if key in shapes:  # the file is copied into tensors of its own; heads differ in width
                parameter.data = parameter.new_empty(shapes[key]) if key in head else parameter.detach().clone()
        base = network.base
        network.base = replace(base, fresh=tuple({*base.fresh, *(key for key in head if key in shapes)}))
        try:
            adapt_from_config(network, notes["adapter"], notes["seed"])
            load_model(network, path)
            attached = {key: layer.attached for key, layer in self._layers()}
            tensors = {key: p.data for key, p in network.named_parameters() if key in shapes and key in self._base}
            label_map = notes.get("label_map", {})
            self._members[name] = _Member(dict(network.adapters.items()), attached, tensors, label_map)
        finally:
            network.base = base
            self.use(None)

    def use(self, models: str | Mapping[str, float] | None, *, decoder: str | None = None) -> None:
        """Switch the network to one of the models, a scaled one, a sum of several, or the plain base.

            switch.use("a")
            switch.use({"a": 0.5})                           # half of its transformer's update, its whole decoder
            switch.use({"a": 0.7, "b": 0.3}, decoder="a")
            switch.use(None)

        Args:
            models: a name, scales of the transformer's updates by name, or None for the base.
            decoder: name of the model whose decoder and head are used; needed for a sum of several.

        Raises:
            UserError: an unknown name, no decoder named, or a model without updates to scale or add.
        """
        scales = {} if models is None else {models: 1.0} if isinstance(models, str) else dict(models)
        decoder = next(iter(scales)) if decoder is None and len(scales) == 1 else decoder
        unknown = [name for name in (*scales, decoder) if name is not None and name not in self._members]
        if unknown:
            known = ", ".join(self._members) or "none was added"
            raise UserError(f"there is no model '{unknown[0]}' to switch to: {known}")
        if scales and decoder is None:
            raise UserError(f"decoder= is needed: whose decoder goes with {', '.join(scales)}?")
        for name, scale in scales.items():
            if not self._members[name].adapters and (scale != 1 or name != decoder):
                raise UserError(f"'{name}' has no updates to scale or add: its method trains the base's own tensors")
        network, self._scales = self.network, scales
        trained: dict[str, Tensor] = {} if decoder is None else self._members[decoder].tensors
        for key, parameter in network.named_parameters():
            if key in self._base:
                tensors = trained if key in trained else self._base
                tensors[key] = tensors[key].to(parameter.device)  # it stays there, in its own precision
                parameter.data = tensors[key].to(parameter.dtype)
                parameter.requires_grad_(False).grad = None
        for key, layer in self._layers():
            layer.attached = [
                replace(item, scale=scale)
                for name, scale in scales.items()
                for item in self._members[name].attached.get(key, [])
            ]
        for attribute in ("adapters", "stacks", "recipe"):
            if hasattr(network, attribute):
                delattr(network, attribute)
        if scales:
            network.adapters = nn.ModuleDict(
                {f"{name}_{stack}": a for name in scales for stack, a in self._members[name].adapters.items()}
            )
            reference = next(network.parameters())
            network.adapters.to(reference.device, reference.dtype).train(network.training).requires_grad_(False)
        self.label_map = {} if decoder is None else self._members[decoder].label_map

    def _layers(self) -> list[tuple[str, Adapted]]:
        return [(key, layer) for key, layer in self.network.named_modules() if isinstance(layer, Adapted)]
