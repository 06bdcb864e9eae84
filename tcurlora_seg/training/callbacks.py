"""What happens beside the training steps: checkpoints, random state, averaging, timing, a line per epoch."""

from __future__ import annotations

import os
import random
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import Tensor

from tcurlora_seg.files import atomic_path


class Checkpoints(Callback):
    """Writes `last.ckpt` after every epoch, keeps the one before as `previous.ckpt`, and the best by validation Dice.

    Args:
        folder: where the files lie.
        validated: whether there are validation cases, without which nothing is best.
    """

    def __init__(self, folder: str | Path, *, validated: bool) -> None:
        self.folder, self.validated = Path(folder), validated
        self.best_dice = -1.0

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        last, dice = self.folder / "last.ckpt", trainer.callback_metrics.get("val/dice")
        improved = self.validated and dice is not None and float(dice) > self.best_dice
        if improved:
            self.best_dice = float(dice)  # type: ignore[arg-type]
        with atomic_path(last) as temporary:
            trainer.save_checkpoint(temporary)
            if last.exists():
                os.replace(last, self.folder / "previous.ckpt")
        if improved:
            with atomic_path(self.folder / "best.ckpt") as temporary:
                temporary.write_bytes(last.read_bytes())

    def state_dict(self) -> dict[str, Any]:
        return {"best_dice": self.best_dice}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_dice = state_dict["best_dice"]


class RandomState(Callback):
    """Carries every global generator's state through a checkpoint, as tensors and plain numbers (no pickle).

    Crops and augmentation need none of it, since they are seeded per sample; dropout does.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        name, keys, position, has_gauss, cached = np.random.get_state()
        version, internal, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [str(name), torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached],
            "python": [version, list(internal), gauss],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self._restored is None:
            return
        state, self._restored = self._restored, None
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))


class AverageLast(Callback):
    """Replaces what was trained by its mean over the ends of the last `epochs` epochs, when training ends.

    Averages only tensors that train, so that checkpoints stay small and a resumed run averages the same.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._kept: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trained = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
        self._kept = [*self._kept, trained][-self.epochs :]

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not self._kept:
            return
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    values = [kept[name].to(parameter.device) for kept in self._kept]
                    parameter.copy_(torch.stack(values).mean(0))

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = state_dict["kept"]


class Meter(Callback):
    """Measures seconds per step (median, the first two left out as warm-up) and the peak memory of training."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._started = self._begun = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._begun = time.perf_counter()
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(module.device)

    def on_train_batch_start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        self._seconds.append(time.perf_counter() - self._started)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.train_seconds = time.perf_counter() - self._begun
        if module.device.type == "cuda":
            self.peak_memory_bytes = int(torch.cuda.max_memory_allocated(module.device))
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            self.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    @property
    def step_seconds(self) -> float | None:
        timed = self._seconds[2:] or self._seconds
        return statistics.median(timed) if timed else None


class EpochBar(RichProgressBar):
    """Lightning's progress bar for runs that are limited by steps, where it would count epochs up to -2."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}"


class EpochLine(Callback):
    """Prints one line at the end of each epoch, where there is no terminal for a progress bar."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        names = {"train/loss_epoch": "loss", "val/dice": "validation Dice"}
        figures = [(names[k], float(v)) for k, v in trainer.callback_metrics.items() if k in names]
        text = "  ".join(f"{name} {value:.4f}" for name, value in figures)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        print(f"step {trainer.global_step}/{trainer.max_steps}  {text}  lr {rate:.2e}", flush=True)
