"""TensorBoard beside the curves: overlays, histograms of the adapters, a row in the table of hyperparameters.

TensorBoard sorts by name: Dice and one overlay come first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.image import imread
from nibabel.affines import voxel_sizes
from omegaconf import DictConfig, OmegaConf
from pandas import DataFrame
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from tcurlora_seg.evaluation.overlay import overlay_figure, slices_of
from tcurlora_seg.training.callbacks import AtEpochEnd, due


class ValidationOverlays(Callback):
    """Callback for an overlay of the first validation case after each validation, as `dice/overlay_val`."""

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int, *_: Any
    ) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger) or index:
            return
        image, label, spacing = batch.image[0].numpy(), batch.label[0].numpy(), voxel_sizes(batch.image.affine.numpy())
        figure = overlay_figure(
            slices_of(image, label, outputs["prediction"], spacing), title=f"{batch.case}, step {trainer.global_step}",
            structures=module.structures, dice=outputs["dice"],
        )  # fmt: skip
        trainer.logger.experiment.add_figure("dice/overlay_val", figure, trainer.global_step)


class Histograms(AtEpochEnd):
    """Callback for histograms of all trained adapter tensors, as `adapters/<stack>/<tensor>`.

    They show whether and where tCURLoRA's core U, which starts at zero, moves.

    Args:
        every: epochs between two histograms.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def at_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger) or not due(trainer, self.every):
            return
        for name, values in _by_tensor(module).items():
            trainer.logger.experiment.add_histogram(f"adapters/{name}", values, trainer.global_step)


def _by_tensor(module: lightning.LightningModule) -> dict[str, Tensor]:
    """Trained values by stack and tensor; slices in a list of parameters come together."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and name.startswith("network.adapters."):
            stack, *path = name.removeprefix("network.adapters.").split(".")
            key = "/".join([stack, *(part for part in path if not part.isdigit())])
            parts.setdefault(key, []).append(parameter.detach().flatten().float())
    return {key: torch.cat(values) for key, values in parts.items()}


def log_evaluation(
    logger: Logger | None, folder: Path, split: str, summary: dict[str, Any], rows: DataFrame, step: int
) -> None:
    """Log the scores of an evaluation, and in TensorBoard the overlay of its worst case, as `dice/overlay_<split>`.

    Args:
        logger: of the run.
        folder: of the evaluation.
        split: its name.
        summary: what `summary.json` holds.
        rows: of `cases.csv`.
        step: of the training.
    """
    if logger is None:
        return
    logger.log_metrics(_scores(split, summary), step)
    logger.save()  # a table's rows wait for more of them
    if isinstance(logger, TensorBoardLogger):
        cases = rows.groupby("case")["dice"].mean().sort_values().index
        pictures = [path for path in (folder / "overlays" / f"{case}.png" for case in cases) if path.is_file()]
        if pictures:
            image = imread(pictures[0])[..., :3]
            logger.experiment.add_image(f"dice/overlay_{split}", image, step, dataformats="HWC")
        logger.experiment.flush()


_COLUMNS = {
    "method": "adapter.name", "rank": "adapter.rank", "model": "model._target_", "pretrained": "pretrained",
    "data": "dataset.task", "split": "split.scheme", "draw": "split.seed", "seed": "seed", "steps": "trainer.max_steps",
    "lr": "optimizer.lr",
}  # fmt: skip
_COSTS = ("trainable_parameters", "step_seconds", "peak_memory_bytes")


def log_hyperparameters(logger: Logger | None, config: DictConfig, split: str, metrics: dict[str, Any]) -> None:
    """Log hyperparameters, scores and costs of a run.

    TensorBoard's columns point to the existing curves; Lightning's own way writes every score a second time.

    Args:
        logger: of the run.
        config: of the run.
        split: name of the scored split.
        metrics: contents of `metrics.json`.
    """
    if logger is None:
        return
    settings = {name: _plain(OmegaConf.select(config, key)) for name, key in _COLUMNS.items()}
    base = Path(str(settings["pretrained"]))
    settings["pretrained"] = "random" if base.parent.name == "bases" else base.name  # where `load_base` stores it
    settings["model"] = str(settings["model"]).rpartition(".")[2].removeprefix("build_")
    costs = {f"run/{name}": float(metrics[name]) for name in _COSTS if metrics[name] is not None}
    logger.log_metrics(costs, metrics["steps"])
    if not isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(settings)
        logger.save()
        return
    scores = _scores(split, metrics["scores"]) if metrics["scores"] else {}
    if metrics["validation_dice"] is not None:
        scores["dice/val"] = metrics["validation_dice"]
    for summary in hparams(settings, {**scores, **costs}):
        logger.experiment.file_writer.add_summary(summary)
    logger.experiment.flush()


def _scores(split: str, summary: dict[str, Any]) -> dict[str, float]:
    """Mean Dice and HD95, where they are defined."""
    found = {f"dice/{split}": summary["mean_dice"]}
    for name, measures in summary["structures"].items():
        for measure in ("dice", "hd95_mm"):
            found[f"{measure}/{split}_{name}"] = measures[measure]["mean"]
    return {name: value for name, value in found.items() if value is not None}


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
