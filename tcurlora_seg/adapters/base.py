"""The one abstraction: an adapter owns the trainable numbers of a stack and maps a slice to its update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.errors import UserError


class Adapter(nn.Module, ABC):
    """Trainable updates of the slices of one stack.

    A method is constructed as `Method(stack, weights, *, ..., generator)` with the frozen tensor `weights`
    (slices, out, in), which it may read but not keep. It knows nothing of networks, names, merging or files.
    Persistent buffers are saved with the parameters; what `gather` recomputes is registered as not persistent.
    """

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

    def penalty(self) -> Tensor | float:
        """What the method adds to the loss."""
        return 0.0

    def after_step(self, step: int, total: int, lr: float) -> None:
        """Called after step `step` of `total` at learning rate `lr`: pruning, proximal steps."""


def no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Full precision on the tensor's device, whatever autocast says outside."""
    return torch.autocast(tensor.device.type, enabled=False)


def check_indices(indices: Tensor, size: int) -> None:
    """Refuse positions outside a weight, as a damaged file may hold them.

    Raises:
        UserError: an index below 0, or not below `size`.
    """
    if not indices.is_meta and not (int(indices.min()) >= 0 and int(indices.max()) < size):
        raise UserError(f"rows or columns {indices.tolist()} are outside a weight of size {size}")
