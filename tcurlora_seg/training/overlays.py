"""TensorBoard pictures: image, reference and prediction in three planes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.image import imread

from tcurlora_seg.evaluation.overlay import figure_to_array, overlay_figure


class ValidationOverlays(Callback):
    """Adds one picture per validation case and epoch under `val/<case>`."""

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        case = batch["case"]
        image, reference = (batch[key][0].cpu().numpy() for key in ("image", "label"))
        figure = overlay_figure(image, reference, outputs["prediction"], title=f"{case}, step {trainer.global_step}")
        trainer.logger.experiment.add_image(
            f"val/{case}", figure_to_array(figure), trainer.global_step, dataformats="HWC"
        )


def log_evaluation(logger: Logger | None, folder: Path, split: str, mean_dice: float | None, step: int) -> None:
    """Add an evaluation's pictures under `<split>/<case>`, and its mean Dice."""
    if not isinstance(logger, TensorBoardLogger):
        return
    for path in sorted((folder / "overlays").glob("*.png")):
        logger.experiment.add_image(f"{split}/{path.stem}", imread(path)[..., :3], step, dataformats="HWC")
    if mean_dice is not None:
        logger.experiment.add_scalar(f"{split}/mean_dice", mean_dice, step)
    logger.experiment.flush()
