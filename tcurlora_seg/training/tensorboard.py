"""What a run shows in TensorBoard beside its curves: pictures, histograms of the adapters, a row to compare runs by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.image import imread
from nibabel.affines import voxel_sizes
from omegaconf import DictConfig
from torch import Tensor

from tcurlora_seg.config.schema import flatten
from tcurlora_seg.evaluation.overlay import figure_to_array, overlay_figure
from tcurlora_seg.training.callbacks import AtEpochEnd, due


class ValidationOverlays(Callback):
    """Adds one picture per validation case and epoch under `val/<case>`; of several devices the first one's cases."""

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        figure = overlay_figure(
            batch.image[0].numpy(), batch.label[0].numpy(), outputs["prediction"],
            title=f"{batch.case}, step {trainer.global_step}", spacing=voxel_sizes(batch.image.affine.numpy()),
        )  # fmt: skip
        trainer.logger.experiment.add_image(
            f"val/{batch.case}", figure_to_array(figure), trainer.global_step, dataformats="HWC"
        )


class Histograms(AtEpochEnd):
    """Adds a histogram of every trained tensor of the adapters under `adapters/<stack>/<tensor>`.

    tCURLoRA's core U starts at zero: whether and where it moves is what one wants to see.

    Args:
        every: epochs from one to the next.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def at_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger) or not due(trainer, self.every):
            return
        for name, values in _by_tensor(module).items():
            trainer.logger.experiment.add_histogram(f"adapters/{name}", values, trainer.global_step)


def _by_tensor(module: lightning.LightningModule) -> dict[str, Tensor]:
    """Trained values by stack and tensor; the slices of a list of parameters together."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and name.startswith("network.adapters."):
            stack, *path = name.removeprefix("network.adapters.").split(".")
            key = "/".join([stack, *(part for part in path if not part.isdigit())])
            parts.setdefault(key, []).append(parameter.detach().flatten().float())
    return {key: torch.cat(values) for key, values in parts.items()}


def log_evaluation(logger: Logger | None, folder: Path, split: str, summary: dict[str, Any], step: int) -> None:
    """Add an evaluation's pictures under `<split>/<case>`, its mean Dice, and those of the structures."""
    if not isinstance(logger, TensorBoardLogger):
        return
    for path in sorted((folder / "overlays").glob("*.png")):
        logger.experiment.add_image(f"{split}/{path.stem}", imread(path)[..., :3], step, dataformats="HWC")
    for name, value in _scores(split, summary).items():
        logger.experiment.add_scalar(name, value, step)
    logger.experiment.flush()


def log_hyperparameters(logger: Logger | None, config: DictConfig, split: str, metrics: dict[str, Any]) -> None:
    """Add the run's row to the HParams tab: every setting, and the final scores and costs to compare runs by."""
    if not isinstance(logger, TensorBoardLogger):
        return
    settings = {key: _plain(value) for key, value in flatten(config).items() if not key.endswith("_target_")}
    final = {name: float(metrics[name]) for name in ("trainable_parameters", "step_seconds", "peak_memory_bytes")
             if metrics[name] is not None}  # fmt: skip
    if metrics["validation_dice"] is not None:
        final["validation_dice"] = metrics["validation_dice"]
    if metrics["scores"]:
        final.update(_scores(split, metrics["scores"]))
    logger.log_hyperparams(settings, {f"final/{name}": value for name, value in final.items()})
    logger.experiment.flush()


def _scores(split: str, summary: dict[str, Any]) -> dict[str, float]:
    """Mean Dice and HD95, where they are defined."""
    found = {f"{split}/mean_dice": summary["mean_dice"]}
    for name, measures in summary["structures"].items():
        for measure in ("dice", "hd95_mm"):
            found[f"{split}/{measure}_{name}"] = measures[measure]["mean"]
    return {name: value for name, value in found.items() if value is not None}


def _plain(value: Any) -> bool | int | float | str:
    """What the tab can hold: numbers and words."""
    return value if isinstance(value, bool | int | float | str) else str(value)
