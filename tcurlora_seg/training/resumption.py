"""Going on: from which step of which epoch, and with which schedule."""

from __future__ import annotations

from pathlib import Path

import torch

from tcurlora_seg.config.stored import load_config


def describe_resumption(checkpoint: str | None, directory: Path, max_steps: int) -> str:
    """The line that tells where a run goes on; nothing for one that begins.

    Args:
        checkpoint: of the run, or None.
        directory: of the run; its config.yaml holds the number of steps that it was given before.
        max_steps: that it is given now.
    """
    if checkpoint is None:
        return ""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    line = f"goes on after step {state['global_step']} of {max_steps}, in epoch {state['epoch'] + 1}"
    before = load_config(directory / "config.yaml").trainer.max_steps
    if before != max_steps:
        line += f"; trainer.max_steps was {before}: from here the learning rate falls as in a run of {max_steps} steps"
    return line
