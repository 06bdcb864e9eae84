"""Progress of a training: a bar in a terminal, else a line at the end of each epoch."""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar

from tcurlora_seg.stopwatch import time_left
from tcurlora_seg.training.callbacks import AtEpochEnd, logged


class EpochBar(RichProgressBar):
    """Progress bar for runs that are limited by steps, where Lightning's own counts epochs up to -2.

    It shows the loss of the last logged step, since reading that of every step makes the processor wait for a GPU.
    """

    def __init__(self) -> None:
        super().__init__(leave=True)
        self._fresh, self._shown = True, dict[str, Any]()

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        self._fresh = logged(trainer)
        super().on_train_batch_end(trainer, *rest)
        self._fresh = True

    def get_metrics(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, Any]:
        if self._fresh:
            self._shown = super().get_metrics(trainer, module)
            self._shown.pop("v_num", None)  # the version of a logger is no figure
            loss = trainer.logged_metrics.get("train/loss_step")
            self._shown |= {} if loss is None else {"loss": float(loss)}
        return self._shown

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}"


class EpochLine(AtEpochEnd):
    """Progress line at the end of each epoch, where there is no terminal for a bar; with the remaining time."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._begun, self._first = time.perf_counter(), trainer.global_step

    def at_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        names = {"train/loss_epoch": "loss", "dice/val": "validation Dice"}
        figures = [(names[k], float(v)) for k, v in trainer.callback_metrics.items() if k in names]
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        text = "  ".join([*(f"{name} {value:.4f}" for name, value in figures), f"lr {rate:.2e}"])
        done, steps = trainer.global_step - self._first, trainer.max_steps - self._first
        if 0 < done < steps:
            text += "  " + time_left(time.perf_counter() - self._begun, done, steps)
        print(f"step {trainer.global_step}/{trainer.max_steps}  {text}", flush=True)
