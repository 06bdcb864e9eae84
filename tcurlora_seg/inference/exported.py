"""Exported weights as a checkpoint: what a file of them tells of its run, so that `load_run` takes it for one."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.stored import parse_config
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.checkpoint import read_metadata


def exported_config(path: Path) -> DictConfig:
    """The configuration in a file of exported weights, which are their own base.

    Raises:
        UserError: no such file, or one that holds weights alone.
    """
    needed = "give a run directory, or weights that scripts/export.py has written as .safetensors"
    try:
        text = read_metadata(path).get("config")
    except UserError as error:
        raise UserError(f"{error}; {needed}") from error
    if not isinstance(text, str):
        raise UserError(f"{path} holds weights alone, and nothing on what they segment: {needed}")
    alone = {"pretrained": str(path), "pretrained_missing": None, "pretrained_inflate": False}
    return OmegaConf.merge(parse_config(text, path), alone)  # type: ignore[return-value]
