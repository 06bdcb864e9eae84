"""Settings of the contestants of a benchmark; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, Literal

from omegaconf import OmegaConf

from tcurlora_seg.config.paths import options
from tcurlora_seg.errors import UserError

REFERENCES = ("floor", "peft_lora", "rebuilt")  # what is no method of configs/adapter
STEP_PARTS = ("data", "forward", "backward", "optimiser")  # what a step is timed in


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Contestant of a benchmark: a method, and the size and options of its step.

    Attributes:
        method: a file of configs/adapter, or a reference: `floor` (the gradient passes through the whole frozen
            transformer and only the decoder trains), `peft_lora` (PEFT's LoRA on the same linears), `rebuilt` (tCURLoRA
            whose weights are built again by FFT every step).
        rank: of the method; null for its file's own.
        model: a file of configs/model; null for the benchmark's `model`.
        side: of the cubic image in voxels.
        batch: images in a step.
        precision: of the forward pass.
        fast: whether the network goes through `speed_up`; false for MONAI's own step.
        channels_last: see `speed_up`.
        checkpointing: see `speed_up`.
        tf32: see `speed_up`.
        compile: whether `torch.compile` translates the network.
        volume: sides of the volume that inference is timed on; null for none.
    """

    method: str
    rank: int | None = None
    model: str | None = None
    side: int = 96
    batch: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    fast: bool = True
    channels_last: bool | None = None
    checkpointing: bool = False
    tf32: bool = True
    compile: bool = False
    volume: list[int] | None = None


def model_of(setting: Setting, model: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of a contestant's network.

    Raises:
        UserError: no file of that name.
    """
    files = options("model")
    if setting.model is not None and setting.model not in files:
        raise UserError(f"contest: there is no model '{setting.model}': choose from {', '.join(files)}")
    chosen: Any = model if setting.model is None else OmegaConf.to_container(OmegaConf.load(files[setting.model]))
    return dict(chosen)


def read_settings(contestants: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]) -> dict[str, Setting]:
    """Settings of all contestants.

    Args:
        contestants: settings of each by name; the default method is the name.
        common: settings of all, which their own override.

    Raises:
        UserError: no contestant, an unknown key, or PEFT is needed and not installed.
    """
    if not contestants:
        raise UserError("contest.contestants is empty: name at least one, see configs/contest/methods.yaml")
    known = [field.name for field in fields(Setting)]
    settings = {}
    for name, own in contestants.items():
        values = {"method": name, **common, **(own or {})}
        unknown = [key for key in values if key not in known]
        if unknown:
            raise UserError(f"contest: {name} has no setting '{unknown[0]}': choose from {', '.join(known)}")
        settings[name] = Setting(**values)
        if settings[name].method == "peft_lora" and find_spec("peft") is None:
            raise UserError(f"contest: {name} needs PEFT: pip install peft (or '.[dev]'), or leave it out")
    return settings
