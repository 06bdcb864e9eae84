"""Taking a run's network away: a plain MONAI state dict that needs nothing of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from tcurlora_seg.checkpoint import origin
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.run import load_run
from tcurlora_seg.files import atomic_path


def export_run(
    *, checkpoint: str, output: str, dtype: Literal["float32", "float16"] = "float32", pretrained: str | None = None
) -> None:
    """Write the merged network's state dict, which `monai.networks.nets.UNETR` loads strictly.

    Args:
        checkpoint: the run directory.
        output: a new file, .safetensors or .pt.
        dtype: float16 halves the file and rounds the weights.
        pretrained: base weights, if they are no longer where the run had them.

    Raises:
        UserError: the file exists or has another ending; see also `load_run`.
    """
    path = Path(output)
    if path.exists():
        raise UserError(f"output={path} exists: choose another file")
    if path.suffix not in (".safetensors", ".pt"):
        raise UserError(f"output={path}: a name that ends in .safetensors or .pt is needed")
    run = load_run(checkpoint, device="cpu", pretrained=pretrained)
    tensors = {name: t.to(getattr(torch, dtype)).contiguous() for name, t in run.network.state_dict().items()}
    with atomic_path(path) as temporary:
        if path.suffix == ".pt":
            torch.save(tensors, temporary)
        else:
            save_file(tensors, temporary, metadata=origin(run.directory / "model.safetensors"))
    print(f"{path}: {sum(t.numel() for t in tensors.values()):,} parameters, {path.stat().st_size / 1e6:.1f} MB")
