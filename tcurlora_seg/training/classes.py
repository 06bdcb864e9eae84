"""Warnings of structures that the network stops predicting while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.training.callbacks import AtEpochEnd

REMEDIES = (
    "what helps: training.class_weights=auto, data/augmentation=strong, a window that fits the volumes (window=null), "
    "a lower optimizer.lr, training.warmup_steps=50, another seed"
)


class ClassWatch(AtEpochEnd):
    """Callback that warns of a structure in the labels of the training crops that is not predicted.

    Voxels are counted on the device and read once an epoch, so that no step waits for them.

    Args:
        structures: class indices of each structure.
        classes: channels of the network's output.
        patience: steps without a predicted voxel before the warning.

    Attributes:
        ratios: predicted over labelled voxels of each structure in the last epoch; None where none was labelled.
    """

    def __init__(self, structures: Mapping[str, Sequence[int]], *, classes: int, patience: int = 100) -> None:
        self.structures, self.classes, self.patience = dict(structures), classes, patience
        self.ratios: dict[str, float | None] = dict.fromkeys(structures)
        self._counts: Tensor | None = None  # (2, classes): predicted, reference
        self._found = dict.fromkeys(structures, 0)  # the step after which each was last found, or not there to find
        self._warned: set[str] = set()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        label = batch["label"].as_subclass(Tensor)[:, 0]
        pair = (outputs["predicted"].where(label != IGNORED, self.classes), label.clamp(max=self.classes))
        now = torch.stack([_histogram(values.flatten(), self.classes) for values in pair])
        self._counts = now if self._counts is None else self._counts.to(now.device) + now

    def at_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self._counts is None:
            return
        predicted, reference = trainer.strategy.reduce(self._counts, reduce_op="sum").tolist()
        self._counts = None
        for name, classes in self.structures.items():
            found, there = (sum(counts[c] for c in classes) for counts in (predicted, reference))
            self.ratios[name] = found / there if there else None
            if found or not there:
                self._found[name] = trainer.global_step
        if trainer.logger is not None:
            known = {f"train/found_{name}": ratio for name, ratio in self.ratios.items() if ratio is not None}
            trainer.logger.log_metrics(known, trainer.global_step)
        lost = [name for name, step in self._found.items() if trainer.global_step - step >= self.patience]
        self._warn([name for name in lost if name not in self._warned], trainer, f"for {self.patience} steps")

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._warn(self.lost, trainer, "at the end of training")

    @property
    def lost(self) -> list[str]:
        """Structures without a predicted voxel in the last epoch, although its crops held some."""
        return [name for name, ratio in self.ratios.items() if ratio == 0]

    def _warn(self, names: Sequence[str], trainer: lightning.Trainer, when: str) -> None:
        self._warned.update(names)
        if names and trainer.is_global_zero:
            text = (
                f"no voxel of {', '.join(names)} was predicted {when}, though the training labels have it; {REMEDIES}"
            )
            warnings.warn(text, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self._counts, "found": self._found, "ratios": self.ratios, "warned": sorted(self._warned)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._counts, self._found = state_dict["counts"], state_dict["found"]
        self.ratios, self._warned = state_dict["ratios"], set(state_dict["warned"])


def _histogram(values: Tensor, classes: int) -> Tensor:
    """Counts of the classes below `classes`; unlike `bincount` it does not wait for a GPU."""
    ones = torch.ones((), dtype=torch.int64, device=values.device).expand(len(values))
    return torch.zeros(classes + 1, dtype=torch.int64, device=values.device).index_add(0, values.long(), ones)[:-1]
