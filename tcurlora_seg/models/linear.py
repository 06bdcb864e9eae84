"""Adapted layers: linear layers and LayerNorms that add the updates of adapters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import Adapter, no_autocast


@dataclass
class Attached:
    """Slices of one adapter in one layer.

    Attributes:
        adapter: the adapter, which `model.adapters` owns.
        indices: positions of the slices in the adapter's stack.
        rows: rows [first, last) of the layer for each slice; they do not overlap.
        scale: factor of the adapter's updates.
    """

    adapter: Adapter
    indices: list[int]
    rows: list[tuple[int, int]]
    scale: float = 1.0


class Adapted(nn.Module):
    """Base class of adapted layers, with the same Parameter objects as `layer`: the state dict keeps its keys.

    The adapters are not registered as submodules here: the network owns them, and a deep copy copies them once.
    """

    weight: Any
    bias: Any

    def __init__(self, layer: nn.Linear | nn.LayerNorm) -> None:
        nn.Module.__init__(self)  # the layer's own would draw new weights
        self.weight = layer.weight
        self.register_parameter("bias", layer.bias)
        self.train(layer.training)
        self.attached: list[Attached] = []
        self.active = True

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """Merged weight and bias, in the weight's precision."""
        with torch.no_grad():
            weight, bias = self._sums()
        return weight.to(self.weight.dtype), None if bias is None else bias.to(self.weight.dtype)

    def plain(self) -> nn.Module:
        """Plain layer with the merged weight and bias."""
        layer = self._bare()
        for name, tensor in zip(("weight", "bias"), self.merged(), strict=True):
            layer.register_parameter(name, None if tensor is None else nn.Parameter(tensor))
        return layer.train(self.training)

    @abstractmethod
    def _bare(self) -> nn.Module:
        """The plain layer, without its tensors."""

    def _sums(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with all updates added, in float32 at least; gradients reach the adapters."""
        precision = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.weight.detach().to(precision, copy=True)
        bias = None if self.bias is None else self.bias.to(precision, copy=True)
        with no_autocast(weight):
            for item in self.attached if self.active else ():  # else the weight holds them already
                for index, (first, last) in zip(item.indices, item.rows, strict=True):
                    weight[first:last] += item.scale * item.adapter.delta(index, self.weight[first:last])
                for (first, last), shift in zip(item.rows, self._bias_deltas(item), strict=True):
                    if shift is not None:
                        bias = weight.new_zeros(len(weight)) if bias is None else bias
                        bias[first:last] += shift
        return weight, bias

    def _bias_deltas(self, item: Attached) -> list[Tensor | None]:
        with no_autocast(self.weight):
            shifts = [
                item.adapter.bias_delta(index, None if self.bias is None else self.bias[first:last])
                for index, (first, last) in zip(item.indices, item.rows, strict=True)
            ]
        return [None if shift is None else item.scale * shift for shift in shifts]


class AdaptedLinear(Adapted, nn.Linear):
    """An `nn.Linear` with adapters; each takes the outputs of the frozen layer, not those of another adapter."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in) to W x + b plus the updates (..., out)."""
        y = super().forward(x)
        if not (self.active and self.attached):
            return y
        unbiased = y if self.bias is None else y - self.bias.to(y.dtype)
        updates: list[_Part] = []
        shifts: list[_Part] = []
        for item in self.attached:
            ys = [unbiased[..., first:last] for first, last in item.rows]
            weights = [self.weight[first:last] for first, last in item.rows]
            own = item.adapter.updates(item.indices, x, ys, weights)
            updates += zip(item.rows, own if item.scale == 1 else [item.scale * update for update in own], strict=True)
            shifts += [part for part in zip(item.rows, self._bias_deltas(item), strict=True) if part[1] is not None]
        for parts in (*_disjoint(updates), *_disjoint(shifts)):
            y = y + _place(parts, self.out_features).to(y.dtype)
        return y

    def _bare(self) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, device="meta")


class AdaptedNorm(Adapted, nn.LayerNorm):
    """An `nn.LayerNorm` with adapters; its small vectors are merged in every forward pass."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(norm)
        self.normalized_shape, self.eps, self.elementwise_affine = norm.normalized_shape, norm.eps, True

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., out), then scale and shift by the updated vectors."""
        if not (self.active and self.attached):
            return super().forward(x)
        weight, bias = self._sums()
        return F.layer_norm(x, self.normalized_shape, weight.to(self.weight.dtype),
                            None if bias is None else bias.to(self.weight.dtype), self.eps)  # fmt: skip

    def _bare(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.normalized_shape, self.eps, device="meta")


_Part = tuple[tuple[int, int], Any]  # rows [first, last) of an output, and what is added there (..., rows)


def _disjoint(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Groups of parts that share no rows: one group, unless stacks overlap."""
    groups: list[list[_Part]] = []
    for part in parts:
        (first, last), _ = part
        free = [group for group in groups if all(last <= low or high <= first for (low, high), _ in group)]
        if not free:
            groups.append([])
        (free or groups[-1:])[0].append(part)
    return groups


def _place(parts: Sequence[_Part], width: int) -> Tensor:
    """Lay parts side by side into (..., width), with zeros where there is none.

    One sum over the output is cheaper than adding each part to a slice of it: the gradient passes unsliced.
    """
    pieces, end = [], 0
    for (first, last), part in sorted(parts, key=lambda pair: pair[0]):
        pieces += [part.new_zeros(*part.shape[:-1], first - end), part]
        end = last
    pieces.append(pieces[-1].new_zeros(*pieces[-1].shape[:-1], width - end))
    pieces = [piece for piece in pieces if piece.shape[-1]]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)
