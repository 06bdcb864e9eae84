"""Export of a run's network, for use without this package: plain weights, a MONAI bundle or TorchScript."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path, read_json, write_json
from tcurlora_seg.inference.bundle import write_bundle
from tcurlora_seg.inference.run import Run, load_run
from tcurlora_seg.models.backbone import backbone_of, window_of
from tcurlora_seg.models.checkpoint import export_notes

_ENDINGS = {"state_dict": (".safetensors", ".pt"), "torchscript": (".ts", ".pt"), "bundle": ("",)}
_KEPT = ("window", "dataset", "model", "adapter", "inference", "seed")
"""What of a run's configuration goes with its exported weights."""
_PLACES = {"root": "data", "manifest": None, "datalist": None, "crosswalk": None}
"""What stands there for the places of its data."""


def export_run(
    *,
    checkpoint: str,
    output: str,
    format: Literal["state_dict", "bundle", "torchscript"] = "state_dict",
    dtype: Literal["float32", "float16"] = "float32",
    **options: Any,
) -> None:
    """Write the merged network of a run; `scripts/export.py` calls it.

    Args:
        checkpoint: the run directory.
        output: a new file, or a bundle's new folder.
        format: `state_dict`, with a JSON of the arguments of the plain class (MONAI's UNETR) that loads it strictly;
            `bundle`, a folder for `python -m monai.bundle run`; `torchscript`, traced for one window size.
        dtype: of a state dict; float16 halves the file and rounds the weights.
        options: `pretrained`, `trust`, and of a bundle `overlap`, `mirror` and `shift`, see `load_run`.

    Raises:
        UserError: the file exists or has another ending; see also `load_run`.
    """
    for key, value, choices in (("format", format, _ENDINGS), ("dtype", dtype, ("float32", "float16"))):
        if value not in choices:
            raise UserError(f"{key}={value}: choose from {', '.join(choices)}")
    if not isinstance(checkpoint, str):
        raise UserError("checkpoint=[...]: one run is exported, give its directory")
    path = Path(output)
    if path.exists():
        raise UserError(f"output={path} exists: choose another name")
    if path.suffix not in _ENDINGS[format] and format != "bundle":
        raise UserError(f"output={path}: a name that ends in {' or '.join(_ENDINGS[format])} is needed")
    if format == "bundle" and path.suffix in (".safetensors", ".pt"):
        raise UserError(f"output={path}: a bundle is a folder, give it a name of one")
    if dtype != "float32" and format != "state_dict":
        raise UserError(f"dtype={dtype} goes with format=state_dict only")
    run = load_run(checkpoint, device="cpu", **options)
    state, exported = run.network.state_dict(), backbone_of(run.network).exported
    described, arguments = path.with_suffix(".json"), {exported: run.arguments}
    if format != "bundle" and described.exists() and read_json(described) != arguments:
        raise UserError(f"{described} exists and describes something else: choose another name")
    if format == "bundle":
        write_bundle(run, path, state, exported)
        size = path / "models" / "model.pt"
    else:
        with atomic_path(path) as temporary:
            if format == "torchscript":
                window = torch.zeros(1, len(run.dataset.modalities), *window_of(run.config))
                with torch.inference_mode():
                    torch.jit.trace(run.network, window, check_trace=False).save(str(temporary))
            elif path.suffix == ".pt":
                torch.save(cast(state, getattr(torch, dtype)), temporary)
            else:
                save_file(cast(state, getattr(torch, dtype)), temporary, metadata=exported_notes(run))
        write_json(described, arguments)
        size = path
    print(f"{path}: {sum(t.numel() for t in state.values()):,} parameters, {size.stat().st_size / 1e6:.1f} MB")


def cast(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """State dict with its floating-point tensors in another type; indices stay whole numbers."""
    return {name: (t.to(dtype) if t.is_floating_point() else t).contiguous() for name, t in state.items()}


def exported_notes(run: Run) -> dict[str, str]:
    """Safetensors metadata of a run's exported weights: its configuration, and the facts of its training images."""
    config = OmegaConf.masked_copy(run.config, [*_KEPT])
    config.data = {"augmentation": {"mirror_axes": run.config.data.augmentation.mirror_axes}}
    config.dataset.update({key: place for key, place in _PLACES.items() if key in config.dataset})
    known = inspect.signature(get_object(config.model._target_)).parameters
    sizes = {key: value for key, value in run.arguments.items() if key in known}
    config.model.update({key: value for key, value in sizes.items() if key not in run.dataset.channels})
    return export_notes(run.model_file, OmegaConf.to_yaml(config, resolve=True))
