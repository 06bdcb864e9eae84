"""The one abstraction: an adapter owns the trainable numbers of a stack and maps a slice to its update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.errors import UserError


class Adapter(nn.Module, ABC):
    """Trainable updates of the slices of one stack.

    A method is constructed as `Method(stack, weights, *, ..., generator)` with the frozen tensor `weights`
    (slices, out, in), which it may read but not keep. It knows nothing of networks, names, merging or files.
    Persistent buffers are saved with the parameters; what `gather` recomputes is registered as not persistent.

    A method that can also change the vectors of LayerNorms sets `vectors`; then `weights` may be (slices, out), and
    `delta` has that shape too.
    """

    vectors: ClassVar[bool] = False
    resume_only: ClassVar[frozenset[str]] = frozenset()  # persistent buffers that a model file can do without

    @abstractmethod
    def delta(self, index: int, weight: Tensor) -> Tensor:
        """The update of slice `index`, in the shape of `weight`: the definition of the method.

        Exactly zero right after construction. Callers switch autocast off around it.

        Args:
            index: position of the slice in the stack.
            weight: the frozen rows (out, in).
        """

    def bias_delta(self, index: int, bias: Tensor | None) -> Tensor | None:
        """What is added to the slice's bias (out,), or None if the method shifts no output."""
        return None

    def updates(
        self, indices: Sequence[int], x: Tensor, ys: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """What to add to each output y = W x of the slices `indices`, which share the input `x`.

        Equal to `delta` applied to x, one slice after another; override it with a cheaper equal form.

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
        """Recompute from the frozen tensor (slices, out, in) what no file holds; called after loading."""

    @classmethod
    def penalty(cls, adapters: Sequence[Self]) -> Tensor | float:
        """What the method adds to the loss for all its adapters in the network, since a mean may span them."""
        return 0.0

    @classmethod
    def after_step(cls, adapters: Sequence[Self], step: int, total: int, lr: float) -> None:
        """Pruning and proximal steps: what the method does to all its adapters once the optimiser has stepped.

        Args:
            adapters: every adapter of this class in the network, since a budget may span them.
            step: steps taken, this one included; its gradients are still there.
            total: steps of the whole training.
            lr: the learning rate that the step was taken at.
        """

    def ranks(self) -> list[int] | None:
        """The rank of each slice, where the weights or the training choose it; None if the user gives it."""
        return None


def penalty(adapters: Iterable[Adapter]) -> Tensor | float:
    """What the methods of a network add to its loss; see `Adapter.penalty`."""
    return sum((method.penalty(members) for method, members in _by_method(adapters).items()), 0.0)


def after_step(adapters: Iterable[Adapter], step: int, total: int, lr: float) -> None:
    """Let every method act on its adapters after an optimiser's step; see `Adapter.after_step`."""
    for method, members in _by_method(adapters).items():
        method.after_step(members, step, total, lr)


def _by_method(adapters: Iterable[Adapter]) -> dict[type[Adapter], list[Adapter]]:
    groups: dict[type[Adapter], list[Adapter]] = {}
    for adapter in adapters:
        groups.setdefault(type(adapter), []).append(adapter)
    return groups


def no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Full precision on the tensor's device, whatever autocast says outside; some devices have no autocast."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def check_indices(indices: Tensor, size: int) -> None:
    """Refuse positions outside a weight, as a damaged file may hold them.

    Raises:
        UserError: an index below 0, or not below `size`.
    """
    if not indices.is_meta and not (int(indices.min()) >= 0 and int(indices.max()) < size):
        raise UserError(f"rows or columns {indices.tolist()} are outside a weight of size {size}")
