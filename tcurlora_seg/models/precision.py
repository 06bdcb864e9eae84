"""Floating-point precision of a network, by Lightning's names."""

from __future__ import annotations

import torch


def resolve_precision(precision: str | int, device: torch.device) -> str:
    """Precision with `auto` resolved: bf16-mixed where `device` has native bfloat16, else 32-true."""
    if precision != "auto":
        return str(precision)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if native else "32-true"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Autocast context for `precision` on `device`: bfloat16 for bf16-mixed, else disabled, also inside another."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
