"""Configuration of a resumed run. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.schema import flatten
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.config.target import backbone_of_target
from tcurlora_seg.config.trust import check_trusted
from tcurlora_seg.errors import UserError

_MAY_CHANGE = (
    "trainer.max_steps", "trainer.accelerator", "trainer.log_every_n_steps", "data.num_workers", "data.cache",
    "data.cache_dir", "dataset.root", "dataset.manifest", "test", "outputs", "output", "resume",
    "pretrained", "trust", "training.on_divergence",
)  # fmt: skip
PLANNED = {
    "window": None, "dataset.preparation.spacing": None, "trainer.max_steps": None, "data.batch_size": None,
    "training.class_weights": "auto",
}  # fmt: skip
"""Keys that a plan fills in, with their values before."""


def resumed(config: DictConfig) -> DictConfig:
    """Configuration of the run `resume`, with those settings of the command line that do not change its training.

    A longer `trainer.max_steps` is accepted; any other setting must be as it was.

    Raises:
        UserError: no run directory, an untrusted configuration (see `check_trusted`), or a changed setting.
    """
    if not config.resume:
        return config
    path = Path(str(config.resume)) / "config.yaml"
    if not path.is_file():
        if (path.parent / ".lock").is_file():
            return config  # killed before it wrote anything
        raise UserError(f"resume={config.resume} is no run directory: it has no config.yaml")
    if config.output and Path(str(config.output)).absolute() != path.parent.absolute():
        raise UserError(f"output={config.output} has no effect: resume={config.resume} goes on in its own folder")
    stored = load_config(path)
    check_trusted(stored, path, given=config, trust=config.trust)
    if stored.window is None:  # from before windows were planned
        stored.window = backbone_of_target(stored.model["_target_"]).window(stored.model)
    before, now = flatten(stored), flatten(config)
    for key in _set_on_the_command_line(now):
        if key == "pretrained" and now[key] == "random":
            continue  # stored under outputs/bases when the run began, and named there
        if key in PLANNED and now[key] == PLANNED[key]:
            continue  # the run has its plan
        if key.startswith("logger"):
            stored.logger = config.logger
        elif key.startswith("inference."):
            name = key.split(".")[1]
            stored.inference[name] = config.inference[name]  # of a rule by structure, too, the former ones go
        elif _is_free(key):
            OmegaConf.update(stored, key, now[key], force_add=True)
        elif before.get(key) != now[key]:
            raise UserError(
                f"resume={config.resume}: the run was started with {key}={before.get(key)}, not {now[key]}; "
                "leave it as it was, or start a new run"
            )
    return stored


def other_setting(directory: Path, config: DictConfig) -> str:
    """First setting of a run that another configuration has otherwise, as key=value; nothing where it is the same run.

    Args:
        directory: of the run; one without a configuration is nobody's.
        config: another run's.
    """
    path = directory / "config.yaml"
    before, now = flatten(load_config(path)) if path.is_file() else {}, flatten(config)
    for key, value in now.items():
        open_ = (key in PLANNED and value == PLANNED[key]) or key.startswith("hydra.")
        if key in before and not open_ and not _is_free(key) and before[key] != value:
            return f"{key}={before[key]}"
    return ""


def _set_on_the_command_line(keys: dict[str, object]) -> list[str]:
    """Keys that the command's overrides set: a config group sets all of its own, an experiment all that train."""
    if not HydraConfig.initialized():
        return list(keys)
    named = [text.lstrip("+~").split("=", 1)[0] for text in HydraConfig.get().overrides.task]
    whole = "experiment" in named  # its other keys are the defaults, such as dataset.root, and not what the user meant
    return [key for key in keys if (whole and not _is_free(key)) or any(_within(key, name) for name in named)]


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _is_free(key: str) -> bool:
    """Whether a resumed run may have another value, since it does not change the training."""
    return key in _MAY_CHANGE or key.startswith(("inference.", "logger"))
