"""Lightning module: training step, validation, optimiser and learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tcurlora_seg.adapters.base import Adapter, after_step, penalty
from tcurlora_seg.data.prepared import PreparedCase
from tcurlora_seg.data.task import without_ignored
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.metrics import dice
from tcurlora_seg.evaluation.processes import gather
from tcurlora_seg.inference.windows import Predictor, labels
from tcurlora_seg.models.backbone import backbone_of
from tcurlora_seg.models.pretrained import LoadReport, running_statistics
from tcurlora_seg.models.trainable import expand
from tcurlora_seg.training.losses import WeightedDiceCE, over_labelled
from tcurlora_seg.training.tokens import TokenSupervision

_LOSSES = {"dice_ce": DiceCELoss, "dice": DiceLoss}


class SegmentationModule(lightning.LightningModule):
    """Lightning module for everything in `network` that requires a gradient.

    Learning rate: step t of T is taken at lr (1 - t / T)^power, after `warmup_steps` of linear increase.

    Args:
        network: maps (batch, channels, X, Y, Z) to logits (batch, classes, X, Y, Z); may hold `adapters`.
        optimizer: builds the optimiser from parameter groups.
        predictor: whole-volume inference for validation.
        structures: class indices of each evaluated structure.
        total_steps: T.
        loss: `dice_ce` (soft Dice plus cross-entropy) or `dice` (the paper's), both over all classes; `tokens`, for
            pre-training: `TokenSupervision` alone, for which the decoder is not computed.
        token_loss: factor of `TokenSupervision` beside the loss; 0 for none.
        class_weights: one a class, background first: `WeightedDiceCE` takes the place of `dice_ce`, and the weights
            fade as training goes on, but for those of the tokens.
        weights_fade: f, at step t of T the weights are taken to the power of 1 - f t / T; 0 to 1.
        decay_power: power of the polynomial decay; 0 keeps the rate.
        warmup_steps: steps before the full rate is reached.
        adapter_lr_factor: learning rate of the adapters relative to that of the trained base tensors.
        lr_factors: the same for globs over the trained base tensors, or the backbone's words for them.
        ignoring: whether labels may hold `IGNORED`, see `over_labelled`.
        compile: whether `torch.compile` translates the training steps; validation runs as it is.

    Raises:
        UserError: an unknown loss, or weights that do not fit it.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        predictor: Predictor,
        structures: dict[str, Sequence[int]],
        total_steps: int,
        loss: Literal["dice_ce", "dice", "tokens"] = "dice_ce",
        token_loss: float = 0.0,
        class_weights: Sequence[float] | None = None,
        weights_fade: float = 1.0,
        decay_power: float = 0.9,
        warmup_steps: int = 0,
        adapter_lr_factor: float = 1.0,
        lr_factors: Mapping[str, float] | None = None,
        ignoring: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.predictor, self.structures = network, predictor, structures
        self.build_optimizer, self.total_steps = optimizer, total_steps
        self.decay_power, self.warmup_steps, self.adapter_lr_factor = decay_power, warmup_steps, adapter_lr_factor
        self.lr_factors = dict(lr_factors or {})
        if loss not in (*_LOSSES, "tokens"):
            raise UserError(f"training.loss={loss!r} is not known: choose from {', '.join(_LOSSES)}, tokens")
        if token_loss < 0 or (token_loss and loss == "tokens"):
            raise UserError(f"training.token_loss={token_loss}: expected 0 or more, and 0 with training.loss=tokens")
        self.logits: Callable[[Tensor], Tensor] = torch.compile(network.forward) if compile else network.forward
        self.ignoring = ignoring
        self._validated: list[tuple[str, dict[str, float]]] = []
        self.alone, self.token_loss = loss == "tokens", token_loss
        self.criterion: nn.Module = _LOSSES["dice_ce" if self.alone else loss](softmax=True, to_onehot_y=True)
        classes = predictor.classes
        if class_weights is not None:
            if loss == "dice" or len(class_weights) != classes or min(class_weights) <= 0:
                raise UserError(
                    f"training.class_weights={list(class_weights)}: expected {classes} numbers above 0, one for the "
                    "background and for each class, and training.loss=dice_ce or tokens"
                )
            self.criterion = WeightedDiceCE(class_weights)
        self.weights_fade = weights_fade
        self.tokens: TokenSupervision | None = None
        if self.alone or token_loss:
            self.tokens = TokenSupervision(network, classes=classes, weights=class_weights)
        self.strict_loading = False  # checkpoints hold what trains; the base is loaded beforehand

    @property
    def adapters(self) -> list[Adapter]:
        return list(getattr(self.network, "adapters", nn.ModuleDict()).values())

    def training_step(self, batch: dict[str, Any], batch_index: int) -> dict[str, Tensor]:
        """Loss of a batch, and the predicted class of every voxel.

        Args:
            batch: "image" (B, C, X, Y, Z) and "label" (B, 1, X, Y, Z).
            batch_index: not used.
        """
        if self.alone:
            return self._tokens_alone(batch)
        logits = self.logits(batch["image"].as_subclass(Tensor))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # out of bfloat16, if it was in it
        label = batch["label"].as_subclass(Tensor)
        if isinstance(self.criterion, WeightedDiceCE):  # it passes over what is ignored by itself
            self.criterion.strength = 1 - self.weights_fade * min(self.global_step / self.total_steps, 1.0)
            loss = self.criterion(logits, label)
        else:
            loss = over_labelled(self.criterion, logits, label) if self.ignoring else self.criterion(logits, label)
        if self.tokens is not None:
            token_loss, _ = self.tokens(label)
            self.log("train/token_loss", token_loss.detach(), on_step=False, on_epoch=True, batch_size=len(logits))
            loss = loss + self.token_loss * token_loss
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=True, batch_size=len(logits))
        predicted = logits.detach().max(dim=1).indices  # on a CPU `argmax` takes ten times as long
        return {"loss": loss + penalty(self.adapters), "predicted": predicted}

    def _tokens_alone(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        transformer = self.network.get_submodule(str(backbone_of(self.network).transformer))
        transformer(batch["image"].as_subclass(Tensor))
        loss, predicted = self.get_submodule("tokens")(batch["label"].as_subclass(Tensor))
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=True, batch_size=len(predicted))
        return {"loss": loss + penalty(self.adapters), "predicted": predicted}

    def optimizer_step(self, epoch: int, batch_index: int, optimizer: Any, closure: Any = None) -> None:
        """Optimiser step, then `after_step` of the adapters with the gradients and the rate of that step.

        A step that float16's loss scaler leaves out, since a gradient has overflowed, is none for the adapters either.

        Args:
            epoch: see Lightning, as the rest.
            batch_index: index of the batch in the epoch.
            optimizer: the optimiser.
            closure: forward and backward pass.
        """
        scaler = self.trainer.scaler
        before = scaler.get_scale() if scaler is not None else 0.0
        super().optimizer_step(epoch, batch_index, optimizer, closure)
        if scaler is not None and scaler.get_scale() < before:
            return
        rate = optimizer.param_groups[-1]["lr"]  # the adapters' group, where there are any
        after_step(self.adapters, self.global_step + 1, self.total_steps, rate)

    def on_train_end(self) -> None:
        if self.tokens is not None:
            self.tokens.close()

    def validation_step(self, batch: PreparedCase, batch_index: int) -> dict[str, Any]:
        """Label map and Dice of one whole volume.

        Args:
            batch: the case.
            batch_index: not used.
        """
        found = labels([self.predictor], batch.image).numpy()
        prediction, reference = without_ignored(found, batch.label[0].numpy())
        scores = {name: dice(np.isin(prediction, classes), np.isin(reference, classes))
                  for name, classes in self.structures.items()}  # fmt: skip
        self._validated.append((batch.case, {name: value for name, value in scores.items() if value is not None}))
        return {"prediction": prediction, "dice": scores}

    def on_validation_epoch_end(self) -> None:
        """Log the mean Dice over the cases of all processes."""
        cases = dict(gather(self._validated)).values()
        self._validated = []
        means = {f"dice/val_{name}": [scores[name] for scores in cases if name in scores] for name in self.structures}
        means["dice/val"] = [sum(scores.values()) / len(scores) for scores in cases if scores]
        for name, values in means.items():
            if values:
                self.log(name, sum(values) / len(values), prog_bar=name == "dice/val", sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        adapters = [p for a in self.adapters for p in a.parameters() if p.requires_grad]
        known = {id(p) for p in adapters}
        names = [name for name, p in self.network.named_parameters() if p.requires_grad and id(p) not in known]
        factors: dict[str, float] = {}  # of several globs that match one name the last counts
        for pattern, factor in self.lr_factors.items():
            globs = backbone_of(self.network).globs([pattern])
            factors |= dict.fromkeys(expand(globs, names, "training.lr_factors"), factor)
        groups: dict[str, tuple[float, list[nn.Parameter]]] = {"base": (1.0, [])}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and id(parameter) not in known:
                factor = factors.get(name.removeprefix("network."), 1.0)
                label = "base" if factor == 1 else f"base x {factor}"
                groups.setdefault(label, (factor, []))[1].append(parameter)
        groups["adapters"] = (self.adapter_lr_factor, adapters)  # they come last
        groups = {name: group for name, group in groups.items() if group[1]}
        optimizer = self.build_optimizer([{"params": own, "name": name} for name, (_, own) in groups.items()])
        for group in optimizer.param_groups:
            group["lr"] *= groups[group["name"]][0]
        schedule = LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warm * max(0.0, 1 - step / self.total_steps) ** self.decay_power

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reduce the checkpoint to trained tensors and adapters with their buffers; the base has its own file."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        trained |= {f"network.{name}" for name in running_statistics(self.network)}
        checkpoint["state_dict"] = {
            name: tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name in trained or name.startswith("network.adapters.")
        }
        checkpoint["base"] = self._base_hash

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the base.

        Raises:
            UserError: the checkpoint belongs to another one.
        """
        if checkpoint["base"] != self._base_hash:
            raise UserError(
                f"the checkpoint was trained on the base {checkpoint['base']}, but pretrained gives {self._base_hash}"
            )

    @property
    def _base_hash(self) -> str | None:
        base = getattr(self.network, "base", None)
        return base.base_hash if isinstance(base, LoadReport) else None
