"""Reading of state-dict files: bare or in a wrapper, with or without a prefix, without running pickled code."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tcurlora_seg.data.notes import note
from tcurlora_seg.errors import UserError

_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".model", ".tar")
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network_weights")
"""Keys of Lightning and MONAI, PyTorch's tutorial, others, Ignite, nnU-Net; of several the first counts."""
_scalar: Any = vars(np)["_core"].multiarray.scalar
_NUMBERS: list[Any] = [
    np.dtype, _scalar, (_scalar, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)),
]  # fmt: skip
"""Pickled types of a numpy number, such as MONAI's `best_acc`; they hold no code."""


def read_tensors(
    path: Path, wanted: Collection[str] = (), is_stale: Callable[[str], bool] = lambda name: False
) -> dict[str, Tensor]:
    """Tensors of a state-dict file as float32, also from inside a wrapper.

    Args:
        path: the file.
        wanted: names of the network's parameters; a prefix that all names share is removed if more of them fit then.
        is_stale: whether a tensor, by name, is obsolete; stale tensors of whole numbers are left out.

    Raises:
        UserError: not a file, not readable, not a state dict of finite tensors, or the file of a run.
    """
    if not path.is_file():
        raise UserError(f"pretrained={path} is not a file: give the path of a state dict, builtin, or random")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix in _PICKLES:
        content = _read_pickle(path)
    else:
        raise UserError(f"pretrained={path}: a .safetensors file or one of {', '.join(_PICKLES)} is needed")
    content = _without_prefix(content, wanted, path)
    if any(name.startswith("adapters.") for name in content):
        raise UserError(f"pretrained={path} is the file of a run: merge it with scripts/export.py first")
    counts = ("num_batches_tracked",)  # of a BatchNorm: no weight
    content = {name: t for name, t in content.items()
               if t.is_floating_point() or not (is_stale(name) or name.endswith(counts))}  # fmt: skip
    tensors = {name: tensor.float() for name, tensor in content.items() if tensor.is_floating_point()}
    for name in content:
        if name not in tensors or not torch.isfinite(tensors[name]).all():
            raise UserError(f"pretrained={path}: {name} holds values that are not finite numbers")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"pretrained={path} is damaged or no safetensors file: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what unpickling any bytes may raise
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise UserError(
                f"pretrained={path} holds a pickled {found[1]}, which could run code and is not loaded: save "
                "network.state_dict() where the file was made"
            ) from error
        reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise UserError(f"pretrained={path} is damaged or holds more than tensors: {reason}") from error
    if isinstance(content, dict) and not _is_state_dict(content):
        inner = {str(key): value for key, value in content.items() if _is_state_dict(value)}
        key = next((key for key in _WRAPPERS if key in inner), next(iter(inner), ""))
        if inner:
            content = inner[key]
            note("wrapper", f"pretrained={path}: its '{key}' is read")
    if not _is_state_dict(content):
        raise UserError(f"pretrained={path} holds no state dict: a mapping from names to tensors is needed")
    return content


def _without_prefix(content: Mapping[str, Tensor], wanted: Collection[str], path: Path) -> dict[str, Tensor]:
    """Names without what `module.`, `net.`, `_orig_mod.` and the like have put before all of them."""
    segments = next(iter(content), "").split(".")
    prefixes = [".".join([*segments[:n], ""]) for n in range(len(segments))]
    shared = [prefix for prefix in prefixes if all(name.startswith(prefix) for name in content)]
    best = max(shared, key=lambda prefix: sum(prefix + name in content for name in wanted))
    if best:
        note("prefix", f"pretrained={path}: the prefix '{best}' is taken off its names")
    return {name.removeprefix(best): tensor for name, tensor in content.items()}


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(map(_is_stored, content, content.values()))


def _is_stored(name: object, tensor: object) -> bool:
    """Whether this is a named tensor whose every element lies in the file.

    Sparse tensors, and those that repeat an element by a stride of 0, become dense in the next computation: a file of
    a kilobyte could ask for terabytes.
    """
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        return False
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
