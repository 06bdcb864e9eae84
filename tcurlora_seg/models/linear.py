"""A linear layer that adds the updates of adapters to its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, no_autocast


@dataclass
class Attached:
    """Slices of one adapter that live in one layer.

    Attributes:
        adapter: the adapter, which `model.adapters` owns.
        indices: positions of the slices in the adapter's stack.
        rows: the rows [first, last) of the layer that each slice takes; they do not overlap.
    """

    adapter: Adapter
    indices: list[int]
    rows: list[tuple[int, int]]


class AdaptedLinear(nn.Linear):
    """An `nn.Linear` with the same Parameter objects as `linear`, so that the state dict keeps its keys.

    The adapters are not registered here: they live once in the network, and a deep copy of the network copies them
    once. Each sees the outputs of the frozen layer, never those of another adapter.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would draw new weights
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)
        self.train(linear.training)
        self.attached: list[Attached] = []
        self.active = True

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in) to W x + b plus the updates (..., out)."""
        total = y = super().forward(x)
        if not self.active:
            return y
        unbiased = y if self.bias is None else y - self.bias.to(y.dtype)
        for item in self.attached:
            ys = [unbiased[..., first:last] for first, last in item.rows]
            weights = [self.weight[first:last] for first, last in item.rows]
            for parts in (item.adapter.updates(item.indices, x, ys, weights), self._bias_deltas(item)):
                whole = _place(parts, item.rows, self.out_features)
                total = total if whole is None else total + whole.to(y.dtype)
        return total

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """The weight and bias of the plain layer that computes the same, in the weight's precision."""
        precision = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.weight.detach().to(precision, copy=True)
        bias = None if self.bias is None else self.bias.detach().to(precision, copy=True)
        with torch.no_grad(), no_autocast(weight):
            for item in self.attached:
                for index, (first, last) in zip(item.indices, item.rows, strict=True):
                    weight[first:last] += item.adapter.delta(index, self.weight[first:last])
                for (first, last), shift in zip(item.rows, self._bias_deltas(item), strict=True):
                    if shift is not None:
                        bias = weight.new_zeros(self.out_features) if bias is None else bias
                        bias[first:last] += shift
        return weight.to(self.weight.dtype), None if bias is None else bias.to(self.weight.dtype)

    def _bias_deltas(self, item: Attached) -> list[Tensor | None]:
        return [
            item.adapter.bias_delta(index, None if self.bias is None else self.bias[first:last])
            for index, (first, last) in zip(item.indices, item.rows, strict=True)
        ]


def _place(parts: Sequence[Tensor | None], rows: Sequence[tuple[int, int]], width: int) -> Tensor | None:
    """Lay parts (..., rows) side by side into (..., width), with zeros where there is none; None if all are None.

    Adding the whole to the output is cheaper than adding each part to a slice of it: the gradient passes unsliced.
    """
    pieces, end = [], 0
    for (first, last), part in sorted(zip(rows, parts, strict=True), key=lambda pair: pair[0]):
        if part is not None:
            pieces += [part.new_zeros(*part.shape[:-1], first - end), part]
            end = last
    if not pieces:
        return None
    pieces = [p for p in [*pieces, pieces[-1].new_zeros(*pieces[-1].shape[:-1], width - end)] if p.shape[-1]]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)
