"""Callbacks that end a training early: signals, early stopping, divergence."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from tcurlora_seg.config import sweep
from tcurlora_seg.errors import UserError
from tcurlora_seg.training.callbacks import Checkpoints, logged


class Stopped(Exception):
    """End of a training that a signal asked for, after its checkpoint is written.

    Attributes:
        signal: its number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signal = signum


class StopOnSignal(Callback):
    """Callback for SIGINT and SIGTERM: it finishes the step in hand, saves `last.ckpt` and raises `Stopped`.

    A second signal does what it did before training. A signal to one of several processes stops all of them; so it
    does with the jobs of a sweep.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._asked = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGINT
                self._before[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        last = index + 1 == trainer.num_training_batches  # the epoch's end has its turn after validation
        whole = (index + 1) % trainer.accumulate_grad_batches == 0
        alone = trainer.world_size == 1  # asking others makes every processor wait for its GPU
        if whole and not last and (alone or logged(trainer)):
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: lightning.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self._asked) or sweep.asked_to_stop(), all=False):
            if self._checkpoints.saved_step < trainer.global_step:
                self._checkpoints.save(trainer)
            raise Stopped(self._asked or signal.SIGTERM)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._restore()

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        """Put the handlers back before Lightning does so with its own; in the other order they would stay."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._asked = signum
        signal.signal(signum, self._before[signum])


class Patience(EarlyStopping):
    """Early stopping by the validation Dice, also where a run is resumed just then.

    Where no validation case has anything to score there is no Dice, and nothing stops.

    Args:
        epochs: without a better Dice before training stops.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("dice/val", mode="max", patience=epochs, check_on_train_epoch_end=False, strict=False)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class Divergence(Callback):
    """Callback for gradients that are NaN or infinite: none of them reaches a checkpoint.

    Each step notes on the device whether its gradient is finite. Logged steps and checkpoints read the notes, since
    each reading makes the processor wait for a GPU. With `skip` every step reads.

    With float16, gradients overflow now and then by design, and the loss scaler leaves such steps out by itself: there
    the loss is noted instead.

    Args:
        skip: leave such a step out and go on; otherwise stop.

    Raises:
        UserError: a gradient or loss was NaN or infinite; the text names step and cases. The last checkpoint stays.
    """

    def __init__(self, *, skip: bool) -> None:
        self._skip = skip
        self._cases: list[str] = []
        self._noted: list[tuple[torch.Tensor, str]] = []  # whether it was finite, and what to say where not

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, index: int
    ) -> None:
        first = index % trainer.accumulate_grad_batches == 0
        self._cases = [*([] if first else self._cases), *batch["case"]]

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.scaler is not None:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        finite = torch.nn.utils.get_total_norm(gradients).isfinite()
        what = self._what(trainer.global_step + 1, "gradient")
        if not self._skip:
            self._noted.append((finite, what))
        elif not finite:
            print(f"skipped: {what.split(';')[0]}", flush=True)
            for parameter in module.parameters():
                parameter.grad = None  # the optimiser passes over what has no gradient

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.scaler is not None and not self._skip:
            self._noted.append((outputs["loss"].detach().isfinite(), self._what(trainer.global_step, "loss")))
        if logged(trainer):
            self._look()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look()

    def _look(self) -> None:
        noted, self._noted = self._noted, []
        if noted and not torch.stack([finite for finite, _ in noted]).all():
            raise UserError(next(what for finite, what in noted if not finite))

    def _what(self, step: int, quantity: str) -> str:
        return (
            f"step {step}, cases {', '.join(self._cases)}: the {quantity} is NaN or infinite; the last checkpoint is "
            "untouched. Look at these cases; go on by training.on_divergence=skip, or begin anew with a lower "
            "optimizer.lr or trainer.precision=32-true"
        )
