"""Callbacks of a training: checkpoints, random state, weight averaging, timing."""

from __future__ import annotations

import os
import random
import statistics
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tcurlora_seg.files import atomic_path
from tcurlora_seg.memory import peak_memory, reset_peak
from tcurlora_seg.randomness import derive
from tcurlora_seg.stopwatch import Stopwatch


class AtEpochEnd(Callback, ABC):
    """Callback with an action at the end of every epoch, the only moment at which reading from a GPU costs little.

    A run that resumes from the end of an epoch ends that epoch again, without a batch or metrics: no action then.
    """

    _batches = False

    @abstractmethod
    def at_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """The action."""

    def on_train_batch_start(self, *_: Any) -> None:
        self._batches = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self._batches:
            self._batches = False
            self.at_epoch_end(trainer, module)


class Checkpoints(AtEpochEnd):
    """Checkpoint callback: `last.ckpt`, the one before it as `previous.ckpt`, and `best.ckpt` by validation Dice.

    Args:
        folder: of the files.
        validated: whether there are validation cases; without any there is no best epoch.
        every: epochs between two checkpoints; the best epoch and the last one are written at once.

    Attributes:
        best_dice: the largest validation Dice; -1 before the first.
        last_dice: that of the last validation.
        saved_step: optimiser steps in `last.ckpt`.
    """

    def __init__(self, folder: str | Path, *, validated: bool, every: int = 1) -> None:
        self.folder, self.validated, self.every = Path(folder), validated, every
        self.best_dice = -1.0
        self.last_dice: float | None = None
        self.saved_step = -1

    def at_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        dice = trainer.callback_metrics.get("dice/val")
        self.last_dice = None if dice is None else float(dice)
        improved = False
        if self.validated and self.last_dice is not None and self.last_dice > self.best_dice:
            self.best_dice, improved = self.last_dice, True
        if improved or due(trainer, self.every):
            self.save(trainer, best=improved)

    def save(self, trainer: lightning.Trainer, *, best: bool = False) -> None:
        """Write `last.ckpt`; a whole checkpoint exists at every moment. Every process calls it, the first one writes.

        Args:
            trainer: whose state is saved.
            best: also write `best.ckpt`, and first: a `last.ckpt` that notes a best epoch never comes without it.
        """
        last = self.folder / "last.ckpt"
        self.saved_step = trainer.global_step
        if not trainer.is_global_zero:
            trainer.save_checkpoint(last)
            return
        with atomic_path(last) as temporary:
            trainer.save_checkpoint(temporary)
            if best:
                with atomic_path(self.folder / "best.ckpt") as copy:
                    copy.write_bytes(temporary.read_bytes())
            if last.exists():
                os.replace(last, self.folder / "previous.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best_dice": self.best_dice, "last_dice": self.last_dice, "saved_step": self.saved_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_dice, self.last_dice = state_dict["best_dice"], state_dict["last_dice"]
        self.saved_step = state_dict.get("saved_step", -1)  # older checkpoints have none


def due(trainer: lightning.Trainer, every: int) -> bool:
    """Whether an action of every few epochs is due: this epoch is one of them, or the last.

    Args:
        trainer: Lightning's.
        every: epochs between two actions.
    """
    ends = trainer.should_stop or trainer.global_step >= trainer.max_steps
    return ends or (trainer.current_epoch + 1) % every == 0


def logged(trainer: Any) -> bool:
    """Whether the step just taken is a logged one, at which Lightning reads the loss from the device anyway."""
    every = trainer.log_every_n_steps
    return bool(every) and trainer.global_step % every == 0


class RandomState(Callback):
    """Random state in checkpoints: every global generator, as tensors and plain numbers (no pickle).

    Dropout needs it; crops and augmentation do not, since they are seeded per sample.
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
        if trainer.global_rank > 0:  # each device has dropout of its own; the first one's state is what is saved
            torch.manual_seed(derive("device", trainer.global_rank, trainer.global_step))
            return
        if self._restored is None:
            return
        state, self._restored = self._restored, None
        torch.set_rng_state(state["torch"])
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for device, own in enumerate(state["cuda"][:devices]):  # there may be fewer or more than when it was saved
            torch.cuda.set_rng_state(own, device)
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))


class AverageLast(AtEpochEnd):
    """Weight averaging over the ends of the last epochs.

    Only tensors that train are averaged. They are kept in main memory and in the checkpoints, so that a resumed run
    averages the same.

    Args:
        epochs: how many; 0 for no averaging.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._kept: list[dict[str, Tensor]] = []

    def at_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.epochs:
            trained = {n: p.detach().to("cpu", copy=True) for n, p in module.named_parameters() if p.requires_grad}
            self._kept = [*self._kept, trained][-self.epochs :]

    def average(self, module: lightning.LightningModule) -> None:
        """Put the mean in place. Called after training, also where a resumed run had nothing left to train."""
        with torch.no_grad():
            for name, parameter in module.named_parameters() if self._kept else ():
                if parameter.requires_grad:
                    parameter.copy_(torch.stack([kept[name].to(parameter.device) for kept in self._kept]).mean(0))

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = state_dict["kept"]


class Meter(AtEpochEnd):
    """Measurement of time and memory.

    On a GPU its own clock notes the beginnings and ends of steps, and is read at the ends of epochs. The first two
    steps are left out as warm-up. Checkpoints carry the figures.

    Attributes:
        step_seconds: median of a step; None before the first.
        data_wait: share of the time in which the device waits for data, 0 to 1; None before the third step.
        train_seconds: of the whole training, validation included.
        peak_memory_bytes: see `peak_memory`.
    """

    def __init__(self) -> None:
        self._watch = Stopwatch(torch.device("cpu"))
        self._waits: list[float] = []
        self._seconds: list[float] = []
        self._before = self._begun = 0.0
        self.train_seconds = 0.0
        self.peak_memory_bytes = 0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._begun, self._watch = time.perf_counter(), Stopwatch(module.device)
        reset_peak(module.device)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._watch = Stopwatch(module.device)

    def on_train_batch_start(self, *_: Any) -> None:
        super().on_train_batch_start()
        self._watch.mark()

    def on_train_batch_end(self, *_: Any) -> None:
        self._watch.mark()

    def _read(self) -> None:
        times = self._watch.restart()
        self._waits += times[0::2]
        self._seconds += times[1::2]
        self.train_seconds = self._before + time.perf_counter() - self._begun

    def at_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._read()
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory(module.device))

    @property
    def step_seconds(self) -> float | None:
        timed = self._seconds[2:] or self._seconds
        return statistics.median(timed) if timed else None

    @property
    def data_wait(self) -> float | None:
        waits, seconds = sum(self._waits[2:]), sum(self._seconds[2:])
        return waits / (waits + seconds) if seconds else None

    def state_dict(self) -> dict[str, Any]:
        self._read()
        waits, seconds = (torch.tensor(times, dtype=torch.float64) for times in (self._waits, self._seconds))
        return {"waits": waits, "seconds": seconds, "train_seconds": self.train_seconds,
                "peak_memory_bytes": self.peak_memory_bytes}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds = state_dict["seconds"].tolist()
        self._waits = state_dict["waits"].tolist() if "waits" in state_dict else []  # older checkpoints have none
        self.train_seconds = self._before = state_dict["train_seconds"]
        self.peak_memory_bytes = state_dict["peak_memory_bytes"]
