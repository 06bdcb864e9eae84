"""Base class of adapters, and the hooks of a training loop (penalty, pruning)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.errors import UserError


class Adapter(nn.Module, ABC):
    """Base class of adapters: trainable updates of the slices of one stack.

    A method is constructed as `Method(stack, weights, *, ..., generator)` with the frozen tensor `weights`
    (slices, out, in), which it may read but not keep. It is independent of networks, names, merging and files.
    Persistent buffers are saved with the parameters; buffers that `gather` recomputes are not persistent.

    A method that can also change the vectors of LayerNorms sets `vectors`; then `weights` may be (slices, out), and
    `delta` has that shape too.
    """

    vectors: ClassVar[bool] = False
    resume_only: ClassVar[frozenset[str]] = frozenset()  # persistent buffers that a model file can do without

    @abstractmethod
    def delta(self, index: int, weight: Tensor) -> Tensor:
        """Update of slice `index`, in the shape of `weight`: the definition of the method.

        It is exactly zero after construction. Callers disable autocast around it.

        Args:
            index: position of the slice in the stack.
            weight: the frozen rows (out, in).
        """

    def bias_delta(self, index: int, bias: Tensor | None) -> Tensor | None:
        """Update (out,) of the `bias` (out,) of slice `index`; None if the method has no shift."""
        return None

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """Updates (..., out) of the outputs y = W x of the slices `indices`, which share the input `x`.

        The default applies `delta` to x, slice by slice; methods override it with a cheaper equal form.

        Args:
            indices: positions in the stack.
            x: (..., in).
            ys: (..., out) each, the frozen layer's outputs without bias.
            weights: (out, in) each, the frozen rows.
        """
        return [F.linear(x, self._exact_delta(i, weight)) for i, weight in zip(indices, weights, strict=True)]

    def _exact_delta(self, index: int, weight: Tensor) -> Tensor:
        with no_autocast(weight):
            return self.delta(index, weight)

    def gather(self, weights: Tensor) -> None:
        """Recompute non-persistent buffers from the frozen `weights` (slices, out, in); called after loading."""

    @classmethod
    def penalty(cls, adapters: Sequence[Self]) -> Tensor | float:
        """Penalty term of the loss for all `adapters` of this class in the network, since a mean may span them."""
        return 0.0

    @classmethod
    def after_step(cls, adapters: Sequence[Self], step: int, total: int, lr: float) -> None:
        """Hook after the optimiser's step, for pruning and proximal steps.

        Args:
            adapters: every adapter of this class in the network, since a budget may span them.
            step: steps taken, this one included; its gradients are still there.
            total: steps of the whole training.
            lr: learning rate of the step.
        """

    def ranks(self) -> list[int] | None:
        """Rank of each slice, where the weights or the training determine it; None if the user sets it."""
        return None


class SliceBySlice(Adapter):
    """Base class of methods whose cheap form shares nothing between slices."""

    @abstractmethod
    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Update of one slice's output; arguments as those of `updates`."""

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """`update`, slice by slice."""
        return [self.update(i, x, y, weight) for i, y, weight in zip(indices, ys, weights, strict=True)]


def penalty(adapters: Iterable[Adapter]) -> Tensor | float:
    """Sum of the penalty terms of all methods in a network; see `Adapter.penalty`."""
    return sum((method.penalty(members) for method, members in _by_method(adapters).items()), 0.0)


def after_step(adapters: Iterable[Adapter], step: int, total: int, lr: float) -> None:
    """Call the hook of every method after an optimiser's step; arguments as in `Adapter.after_step`."""
    for method, members in _by_method(adapters).items():
        method.after_step(members, step, total, lr)


def _by_method(adapters: Iterable[Adapter]) -> dict[type[Adapter], list[Adapter]]:
    groups: dict[type[Adapter], list[Adapter]] = {}
    for adapter in adapters:
        groups.setdefault(type(adapter), []).append(adapter)
    return groups


def no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Context manager that disables autocast on the tensor's device; some devices have no autocast."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def scale_of(alpha: float | None, rank: int = 1) -> float:
    """The scale alpha / r of an update; 1 where `alpha` is None.

    Raises:
        UserError: `alpha` is no finite number above 0.
    """
    if alpha is None:
        return 1.0
    if not 0 < alpha < math.inf:
        raise UserError(f"alpha={alpha}: a number above 0 is needed, or null")
    return alpha / rank


def check_indices(indices: Tensor, size: int) -> None:
    """Check row or column positions from a file, which may be damaged.

    Args:
        indices: positions, int64.
        size: number of rows or columns of the weight.

    Raises:
        UserError: an index below 0, or not below `size`.
    """
    if not indices.is_meta and not (int(indices.min()) >= 0 and int(indices.max()) < size):
        raise UserError(f"rows or columns {indices.tolist()} are outside a weight of size {size}")
