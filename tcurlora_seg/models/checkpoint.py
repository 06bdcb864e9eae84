"""Model files: the trained tensors, and the frozen ones that base and configuration cannot reproduce."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tcurlora_seg.config.paths import PACKAGED, packaged
from tcurlora_seg.data.leakage import UNKNOWN
from tcurlora_seg.data.spacing import TrainingSpacing, read_spacing
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path
from tcurlora_seg.models.linear import Adapted
from tcurlora_seg.models.pretrained import LoadReport, running_statistics
from tcurlora_seg.models.stacking import stacked_weights
from tcurlora_seg.models.trainable import trainable_parameters

_log = logging.getLogger(__name__)
FORMAT = 1
_KEY = "tcurlora_seg"  # one entry, since safetensors writes several in no fixed order


def save_model(model: nn.Module, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an adapted network's `model.safetensors`.

    It holds `adapters.<stack>.<tensor>`, the trained tensors of the base under their own names, and those that were
    fresh or resized when the base was loaded.

    Args:
        model: a network after `adapt` or `inject`, with `model.base` set.
        path: the file.
        metadata: further JSON-ready metadata; format, base, stack order and the adapters' configuration (`adapter`,
            `seed`) are always stored.
    """
    recipe: Any = getattr(model, "recipe", {})
    notes = {**recipe, **(metadata or {}), "format": FORMAT, "base": _base(model).base_hash, "stacks": _orders(model)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in _kept(model).items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(notes, sort_keys=True)})


def load_model(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a model file into a network in place, after a check of the whole file.

    Args:
        model: a network with the same base and the same adapters.
        path: the file.

    Returns:
        The metadata.

    Raises:
        UserError: the file is damaged or of another format, belongs to another base, method or stacks, or has a tensor
            too many, too few, of another shape or type, or with a value that is not finite.
    """
    notes, here = read_metadata(path), _base(model).base_hash
    if notes.get("base") != here:
        raise UserError(f"{path} was trained on the base {notes.get('base')}, but this network's base is {here}")
    if notes.get("stacks") != _orders(model):
        raise UserError(f"{path} has the stacks {notes.get('stacks')}, but this network has {_orders(model)}")
    _compare_methods(notes, getattr(model, "recipe", {}), path)
    wanted = _kept(model)
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        faults = [f"{name} is missing" for name in wanted if name not in shapes]
        faults += [f"{name} is surplus" for name in shapes if name not in wanted]
        faults += [
            f"{name} has shape {shapes[name]} instead of {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in shapes and shapes[name] != list(tensor.shape)
        ]
        given = {} if faults else {name: file.get_tensor(name) for name in wanted}  # what does not fit is not read
    faults += [fault for name in given for fault in _compare(name, given[name], wanted[name])]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{path} does not fit the network: {'; '.join(faults[:3])}{more}")
    before = {name: tensor.detach().clone() for name, tensor in wanted.items()}
    try:
        _restore(model, wanted, given)
    except UserError as error:
        _restore(model, wanted, before)
        raise UserError(f"{path}: {error}") from error
    return notes


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Metadata of a model file, without its tensors.

    Raises:
        UserError: no such file, damaged, not written by `save_model`, or of a later format.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {}).get(_KEY, "null"))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from error
    except (ValueError, RecursionError):
        notes = None
    if not isinstance(notes, dict):
        raise UserError(f"{path} is no model file of this package: its metadata has no valid '{_KEY}'")
    if notes.get("format") != FORMAT:
        raise UserError(f"{path} has format {notes.get('format')}; this version reads {FORMAT}")
    return notes


def trained_on(source: str) -> list[str]:
    """Training data sets (real images) of a base network, by name; `UNKNOWN` where its file does not name them.

    Args:
        source: as in `pretrained=`; the packaged ones are trained on simulated images only, a random one on none.
    """
    if source in (*PACKAGED, "random"):
        return []
    return list(_notes_of(source).get("trained_on", [UNKNOWN]))


def base_spacing(source: str) -> TrainingSpacing | None:
    """Voxel sizes that a base network was trained on; None where its file does not name them.

    Args:
        source: as in `pretrained=`.
    """
    try:
        return read_spacing(_notes_of(str(packaged(source))).get("spacing"))
    except (KeyError, TypeError):
        return None


def _notes_of(source: str) -> dict[str, Any]:
    try:
        with safe_open(source, framework="pt") as file:
            return dict(json.loads((file.metadata() or {})[_KEY]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return {}


def export_notes(path: str | Path, config: str) -> dict[str, str]:
    """Safetensors metadata that lets exported weights be used like a run, and continued from."""
    notes = read_metadata(path)
    kept = {key: notes[key] for key in ("spacing", "typical") if key in notes}
    return {_KEY: json.dumps({"format": FORMAT, "trained_on": trained_on(str(path)), **kept, "config": config})}


def _base(model: Any) -> LoadReport:
    if not isinstance(getattr(model, "base", None), LoadReport) or not hasattr(model, "adapters"):
        raise UserError("the network has no base or no adapters: load its weights with load_pretrained, then adapt it")
    if not hasattr(model, "stacks"):
        raise UserError("the network is a Switch's: its models have files of their own already")
    if not all(layer.active for layer in model.modules() if isinstance(layer, Adapted)):
        raise UserError("the network is merged just now: leave `with merged(...)` first")
    return model.base


def _kept(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model file, as they are in the network."""
    base, state = _base(model), model.state_dict(keep_vars=True)
    names = {*trainable_parameters(model), *base.fresh, *base.resized, *running_statistics(model)}
    adapters: Any = model.get_submodule("adapters")
    for stack, adapter in adapters.items():
        names |= {f"adapters.{stack}.{name}" for name in adapter.state_dict() if name not in adapter.resume_only}
    return {name: tensor for name, tensor in state.items() if name in names}


def _orders(model: Any) -> dict[str, Any]:
    """Roles and blocks of every stack: they fix the order of its slices."""
    return {name: {"roles": list(s.roles), "blocks": list(s.blocks)} for name, s in model.stacks.items()}


def _compare_methods(notes: Mapping[str, Any], recipe: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a file of another method; say where the same method had another option, such as alpha."""
    theirs, ours = (_methods(recipe_.get("adapter") or {}) for recipe_ in (notes, recipe))
    for stack in theirs.keys() & ours.keys():
        for key in theirs[stack].keys() & ours[stack].keys():
            trained, here = theirs[stack][key], ours[stack][key]
            if trained != here and key == "_target_":
                raise UserError(f"{path} holds {trained} for the stack {stack}, but this network has {here}")
            if trained != here:
                _log.warning("%s was trained with %s=%s, but this network has %s=%s", path, key, trained, key, here)


def _methods(adapter: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of every stack's method by the adapters' configuration; of `_target_` the name of the class alone."""
    found = {}
    for name, entry in (adapter.get("stacks") or {}).items():
        own = dict(entry.get("method") or adapter.get("method") or {})
        found[name] = {**own, "_target_": str(own.get("_target_")).rpartition(".")[2]}
    return found


def _compare(name: str, given: Tensor, wanted: Tensor) -> list[str]:
    if given.dtype != wanted.dtype:
        return [f"{name} is {given.dtype} instead of {wanted.dtype}"]
    if given.is_floating_point() and not torch.isfinite(given).all():
        return [f"{name} holds values that are not finite"]
    return []


def _restore(model: Any, wanted: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into the network; the adapters recompute their other buffers."""
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(values[name])
    for name, adapter in model.adapters.items():
        adapter.gather(stacked_weights(model, model.stacks[name]))
