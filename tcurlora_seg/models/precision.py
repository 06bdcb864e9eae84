"""The floating-point format that a network computes in, by the names that Lightning gives them."""

from __future__ import annotations

import torch


def resolve_precision(precision: str | int, device: torch.device) -> str:
    """What `auto` stands for: bf16-mixed where the device computes in bfloat16 by itself, else 32-true."""
    if precision != "auto":
        return str(precision)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if native else "32-true"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Products in bfloat16 for bf16-mixed; otherwise in the weights' own format, whatever is set outside."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
