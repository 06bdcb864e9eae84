"""Exported weights as a checkpoint: what a file of them tells of its run, so that `load_run` takes it for one."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.stored import parse_config
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.checkpoint import export_notes, read_metadata

if TYPE_CHECKING:
    from tcurlora_seg.inference.run import Run

_KEPT = ("window", "dataset", "model", "adapter", "inference", "seed")
"""What of a run's configuration goes with its exported weights."""
_PLACES = {"root": "data", "manifest": None, "datalist": None, "crosswalk": None}
"""What stands there for the places of its data."""


def exported_notes(run: Run) -> dict[str, str]:
    """Safetensors metadata of a run's exported weights: its configuration, and the facts of its training images.

    Args:
        run: the run, loaded.
    """
    config = OmegaConf.masked_copy(run.config, [*_KEPT])
    config.data = {"augmentation": {"mirror_axes": run.config.data.augmentation.mirror_axes}}
    config.dataset.update({key: place for key, place in _PLACES.items() if key in config.dataset})
    known = inspect.signature(get_object(config.model._target_)).parameters
    sizes = {key: value for key, value in run.arguments.items() if key in known}
    config.model.update({key: value for key, value in sizes.items() if key not in run.dataset.channels})
    return export_notes(run.model_file, OmegaConf.to_yaml(config, resolve=True))


def exported_config(path: Path) -> DictConfig:
    """The configuration in a file of exported weights, which are their own base.

    Raises:
        UserError: no such file, or one that holds weights alone.
    """
    text = read_metadata(path).get("config")
    if not isinstance(text, str):
        raise UserError(
            f"{path} holds weights alone, and nothing on what they segment: give a run directory, or weights that "
            "scripts/export.py has written as .safetensors"
        )
    alone = {"pretrained": str(path), "pretrained_missing": None, "pretrained_inflate": False}
    return OmegaConf.merge(parse_config(text, path), alone)  # type: ignore[return-value]
