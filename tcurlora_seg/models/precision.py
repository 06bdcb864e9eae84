"""Device of a network by its name, and floating-point precision by Lightning's names."""

from __future__ import annotations

import torch

from tcurlora_seg.errors import UserError


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


def choose_device(name: str) -> torch.device:
    """Device of that name; `auto` takes a GPU where there is one.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if name.startswith("cuda") else "choose auto, cpu, cuda or cuda:1"
        raise UserError(f"device={name} cannot be used: {reason}") from error
    return device
