"""Stored configurations of runs, also of older versions."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.errors import UserError

_GONE = ("straight_norm", "fused_attention", "split_skips")  # keys of `speed` that older runs have
_OLD = {"dataset.preparation.background": "zero"}  # as _ADDED, of 0.1.0 alone: a data set may leave this key out
_ADDED: dict[str, Any] = {  # keys that older runs lack -> what they did
    "window": None,
    "trust": [],
    "speed.tf32": False,
    "split.test": None,
    "adapter.lr": None,
    "training.class_weights": None,
    "training.weights_fade": 1.0,
    "training.probe": 0,
    "training.token_loss": 0.0,
    "training.lr_factors": None,
    "training.save_every": 1,
    "training.histograms": True,
    "inference.shift": 0,
    "inference.second_look": False,
    "inference.precision": "32-true",
    "inference.pictures": 3,
    "inference.min_share": None,
    "inference.min_component_ml": None,
    "inference.largest_pieces": None,
}


def load_config(path: str | Path) -> DictConfig:
    """Configuration from a YAML file of a run.

    Raises:
        UserError: it is missing; see also `parse_config`.
    """
    try:
        return parse_config(Path(path).read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: is the folder a finished run?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable configuration: {str(error).splitlines()[0]}") from error


def parse_config(text: str, source: object) -> DictConfig:
    """Configuration that a run has written, brought up to this version.

    Raises:
        UserError: no YAML mapping, or YAML's aliases, which a run never writes and by which a few lines can stand for
            billions.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"{source} is not the configuration of a run: it has aliases (*name)")
        loaded = OmegaConf.load(StringIO(text))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{source} is not a readable configuration: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{source} is not a configuration: its top level is no mapping")
    if OmegaConf.select(loaded, "speed._target_", throw_on_missing=False) == "tcurlora_seg.models.backbone.speed_up":
        OmegaConf.update(loaded, "speed._target_", "tcurlora_seg.models.speed.speed_up")  # where older runs name it
    for key in _GONE:
        loaded.get("speed", {}).pop(key, None)
    if loaded.get("pretrained") == "builtin" and "lr_factors" not in loaded.get("training", {}):
        loaded.pretrained = "builtin_tumours"  # what older versions packaged
    if "_target_" in loaded.get("model", {}):
        added = {**_OLD, **_ADDED} if "window" not in loaded else _ADDED
        for key, value in added.items():
            _add(loaded, key, value)
    return loaded


def _add(config: DictConfig, key: str, value: Any) -> None:
    """Set a key that is absent, if its section is present and no reference."""
    *sections, last = key.split(".")
    for name in sections:
        if name not in config or OmegaConf.is_interpolation(config, name) or not isinstance(config[name], DictConfig):
            return
        config = config[name]
    if last not in config:
        config[last] = value
