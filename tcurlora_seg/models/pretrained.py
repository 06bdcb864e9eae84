"""Pre-trained weights: loading, resizing to a network, and the hash of a base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tcurlora_seg.config.paths import PACKAGED, packaged
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path
from tcurlora_seg.models.backbone import Backbone, backbone_of
from tcurlora_seg.models.trainable import expand, glob
from tcurlora_seg.models.weights_file import read_tensors

_CHANNELS = " (the file is for {} image channels; pretrained_inflate=true spreads them)"
_WORDS = {"resized": "are resized", "fresh": "start afresh and train", "ignored": "of the file are not used"}


@dataclass(frozen=True)
class LoadReport:
    """Origin of a network's weights; kept as `model.base`.

    Attributes:
        source: the file, or a description of the network's own weights.
        base_hash: see `base_hash`.
        loaded: tensors copied unchanged.
        resized: tensors computed from the file's, for another image size or number of channels.
        fresh: tensors that kept their random start.
        ignored: tensors of the file that this network does not use.
    """

    source: str
    base_hash: str
    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors of the base are taken as they are"]
        for word in ("resized", "fresh", "ignored"):
            names = getattr(self, word)
            tops = list(dict.fromkeys(name.split(".")[0] for name in names))
            listed = ", ".join(tops[:6]) + ", ..." * (len(tops) > 6)
            parts += [f"{len(names)} {_WORDS[word]} ({listed})"] if names else []
        return "; ".join(parts)


def load_pretrained(
    model: nn.Module, source: str, *, missing: Sequence[str] | None = None, inflate: bool = False
) -> LoadReport:
    """Load pre-trained weights into a network, in place, and record their origin as `model.base`.

    The output layer may be absent or of another width and then starts afresh. Tensors that depend on the window, such
    as position embeddings, are resized by the backbone.

    Args:
        model: a network without adapters.
        source: name of a packaged base, or a file, see `read_tensors`.
        missing: globs over parameters (or the backbone's words for them) that may be absent from the file, or of
            another shape, and then start afresh. None: in the file of an encoder alone all but the encoder, else none.
        inflate: accept another number of image channels, spreading the mean over the file's channels evenly, so that
            equal channels give the same response as before.

    Raises:
        UserError: the file is missing, truncated or no state dict, or does not fit the network.
    """
    if hasattr(model, "adapters"):
        raise UserError("the network has adapters already: load its weights first, then adapt it")
    path = packaged(source)
    wanted, backbone = _weights(model), backbone_of(model)
    tensors = backbone.converted(read_tensors(path, wanted, backbone.is_stale), model)
    optional, aside = {*backbone.head}, {name for name in tensors if backbone.is_stale(name)}
    if missing is None and not expand(backbone.globs(["decoder"]), wanted) & set(tensors):  # an encoder alone
        optional |= set(wanted) - expand(backbone.encoder, wanted)
        inside = [glob(pattern) for pattern in backbone.encoder]
        aside |= {name for name in tensors if name not in wanted and not any(g.fullmatch(name) for g in inside)}
    optional |= expand(backbone.globs(missing or ()), wanted, "pretrained_missing")
    values: dict[str, Tensor] = {}
    resized, fresh, faults = [], [], []
    for name, parameter in wanted.items():
        given = tensors.get(name)
        fitted = given
        if given is not None and given.shape != parameter.shape:
            fitted = _fit(name, given, model, backbone, inflate)
        elif given is not None and source in PACKAGED:  # as many positions may be another grid than its cube
            fitted = backbone.fit(name, given, model)
            fitted = given if fitted is None else fitted
        if fitted is not None and fitted.shape == parameter.shape:
            values[name] = fitted
            if fitted is not given:
                resized.append(name)
        elif name in optional:
            fresh.append(name)
        elif given is not None:
            hint = "" if inflate or name not in backbone.inputs else _CHANNELS.format(given.shape[1])
            faults.append(f"{name} is {_shape(given)}, the network's {_shape(parameter)}{hint}")
        elif not backbone.is_unused(name):
            faults.append(f"{name} is missing")
    faults += [f"{name} is surplus" for name in tensors if name not in wanted and name not in aside]
    differ = [name for name in tensors if name in wanted and tensors[name].shape != wanted[name].shape]
    if len(differ) > len(wanted) / 2:
        whose = "unetr_small's" if source in PACKAGED else "of another size"
        raise UserError(
            f"pretrained={source} does not fit the network: these weights are {whose} ({len(differ)} of {len(wanted)} "
            f"tensors differ in shape, {', '.join(differ[:3])}, ...); take pretrained=random or a file of this size"
        )
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        hint = "; it goes with model.feature_size=8" if source == "builtin_tumours" and differ else ""
        hint += "; it goes with model.qkv_bias=true" if "attn.qkv.bias is surplus" in str(faults) else ""
        raise UserError(f"pretrained={path} does not fit the network: {'; '.join(faults[:3])}{more}{hint}")
    if set(backbone.head) & set(fresh):  # a weight without its bias is no head
        fresh += [name for name in backbone.head if values.pop(name, None) is not None]
    with torch.no_grad():
        for name, value in values.items():
            wanted[name].copy_(value)
    report = LoadReport(
        source=str(source),
        base_hash=base_hash({name: tensor for name, tensor in tensors.items() if name not in aside}, backbone),
        loaded=tuple(name for name in values if name not in resized),
        resized=tuple(resized),
        fresh=tuple(fresh),
        ignored=tuple(name for name in tensors if name in aside),
    )
    model.base = report  # type: ignore[assignment]
    return report


def base_hash(tensors: Mapping[str, Tensor], backbone: Backbone) -> str:
    """SHA-256 of tensors in float32 with names and shapes, sorted by name.

    Args:
        tensors: the weights by name.
        backbone: excludes unused and stale tensors.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if not backbone.is_unused(name) and not backbone.is_stale(name):
            tensor = tensors[name].detach().cpu().float().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def describe_base(model: nn.Module) -> LoadReport:
    """Load report of a network whose weights were loaded elsewhere: its present weights are the base."""
    tensors = _weights(model)
    return LoadReport("the network's own weights", base_hash(tensors, backbone_of(model)), loaded=tuple(tensors))


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Means and variances of the normalisations that keep them (BatchNorm), by name: a training changes them."""
    return {
        f"{path}.{name}".lstrip("."): module.get_buffer(name)
        for path, module in model.named_modules()
        if isinstance(module, _NormBase) and module.track_running_stats
        for name in ("running_mean", "running_var")
    }


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that make a base: parameters, and running statistics."""
    return {**dict(model.named_parameters()), **running_statistics(model)}


def save_base(model: nn.Module, folder: str | Path) -> Path:
    """Write a network's weights without its output layer to `<folder>/<hash>.safetensors`, for `load_pretrained`.

    Returns:
        The file's path.
    """
    backbone = backbone_of(model)
    kept = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in _weights(model).items()
        if name not in backbone.head and not backbone.is_unused(name)
    }
    path = Path(folder) / f"{base_hash(kept, backbone)}.safetensors"
    with atomic_path(path) as temporary:
        save_file(kept, temporary, metadata={"tcurlora_seg": json.dumps({"trained_on": []})})
    return path


def _fit(name: str, given: Tensor, model: nn.Module, backbone: Backbone, inflate: bool) -> Tensor | None:
    """The file's tensor for the network's window or channels; None if there is no way."""
    if name in backbone.inputs and inflate and given.ndim == 5:
        channels = model.get_parameter(name).shape[1]
        return given.sum(1, keepdim=True).expand(-1, channels, -1, -1, -1) / channels
    return backbone.fit(name, given, model)


def resize_positions(embeddings: Tensor, target: Sequence[int]) -> Tensor | None:
    """Trilinear interpolation of position embeddings to another grid.

    Args:
        embeddings: (1, patches, hidden) of a cubic grid; a class token's, in first place, is dropped.
        target: patches along each axis.

    Returns:
        (1, new patches, hidden); None if the grid is not cubic.
    """
    side = int(embeddings.shape[1] ** (1 / 3) + 1e-6)
    if tuple(target) == (side,) * 3 and side**3 == embeddings.shape[1]:
        return embeddings
    if side**3 == embeddings.shape[1] - 1:
        embeddings = embeddings[:, 1:]
    if side**3 != embeddings.shape[1]:
        return None
    cube = embeddings.reshape(1, side, side, side, -1).permute(0, 4, 1, 2, 3)
    resized = F.interpolate(cube, size=tuple(target), mode="trilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2).contiguous()


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
