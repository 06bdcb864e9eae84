"""Faster steps: the same network, computed with less time or memory.

It swaps the class of some of MONAI's modules for a subclass here: parameters, state-dict keys and results stay
(to rounding), and deep copies, merging and export know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks.selfattention import SABlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def speed_up(
    network: nn.Module,
    *,
    half: bool = False,
    channels_last: bool | None = None,
    checkpointing: bool = False,
    tf32: bool | None = None,
) -> nn.Module:
    """Choose how a network of MONAI's blocks computes, in place.

    Instance normalisation hands its volume on without copies, attention never stores its matrix, and a skip connection
    that needs no gradient is convolved apart from what it is joined with.

    Args:
        network: the network, with or without adapters.
        half: whether it will compute in 16 bits.
        channels_last: keep volumes channels-last from one convolution to the next. None: in 16 bits, where that is
            faster; in float32 processors are slower with it and lose digits.
        checkpointing: store what the convolution blocks are given and no more, and compute them again in the backward
            pass, one sample at a time: less memory for more time.
        tf32: let GPUs round the factors of float32 matrix products to ten bits, as they do in convolutions by PyTorch's
            default. It is a switch of the whole process; None leaves it alone.
    """
    if tf32 is not None:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    channels_last = half if channels_last is None else channels_last
    if channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    swaps: dict[type[nn.Module], type[nn.Module]] = {
        nn.InstanceNorm3d: StraightInstanceNorm, SABlock: FusedAttention, UnetrUpBlock: SplitUp,
    }  # fmt: skip
    if checkpointing:
        swaps |= {UnetrBasicBlock: RecomputedBasic, UnetrPrUpBlock: RecomputedPrUp, UnetrUpBlock: RecomputedUp}
    for module in network.modules():
        if not getattr(module, "save_attn", False):  # the kernel keeps no attention matrix to look at
            module.__class__ = swaps.get(type(module), type(module))
    return network


class FusedAttention(SABlock):
    """softmax(q k' / sqrt d) v by one kernel; dropout only while training, which MONAI's own switch to it forgets."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Map tokens (batch, tokens, hidden) to the same shape; UNETR never gives a mask."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.dim_head)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout_rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask, dropout, scale=self.scale)
        return self.drop_output(self.out_proj(y.transpose(1, 2).flatten(2)))


class StraightInstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation whose volume is handed on as it is.

    PyTorch's own gives a view, and what follows in place (activation, sum) then copies whole volumes in the backward
    pass. Channels-last volumes it copies to channels-first, and the next convolution copies them back: over a single
    sample instance and batch normalisation are one, and the latter has a kernel for this layout. On a CPU that kernel
    adds number by number in float32, which is off by 2e-4 over a million voxels: less than bfloat16's rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, X, Y, Z) to the same shape and layout."""
        if x.is_contiguous():
            y: Tensor = torch.ops.aten._unsafe_view(super().forward(x), x.shape)  # a view that autograd takes for none
            return y
        normed = [F.batch_norm(s, None, None, self.weight, self.bias, True, 0.0, self.eps) for s in x.split(1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


class SplitUp(UnetrUpBlock):
    """MONAI's decoder block with conv([a, skip]) taken as conv_a(a) + conv_skip(skip), where the skip is frozen."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (batch, in, X, Y, Z) and the skip (batch, out, 2 X, 2 Y, 2 Z) to the skip's shape."""
        if skip.requires_grad or not torch.is_grad_enabled():
            return super().forward(x, skip)  # joins the two once, not for each convolution
        block: Any = self.conv_block
        a = self.transp_conv(x)
        y = block.lrelu(block.norm1(_split(block.conv1, a, skip)))
        y = block.norm2(block.conv2(y))
        return block.lrelu(block.norm3(_split(block.conv3, a, skip)).add_(y))


def _split(layer: Any, a: Tensor, skip: Tensor) -> Tensor:
    conv = layer.conv
    ours, theirs = conv.weight.split(a.shape[1], dim=1)
    return F.conv3d(a, ours, conv.bias, padding=conv.padding).add_(F.conv3d(skip, theirs, padding=conv.padding))


def _recomputed(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """The function's output for each sample, joined.

    Its inputs alone are stored: in the backward pass it runs again, sample by sample, so that what it computes on its
    way is never there for more than one.
    """
    if not torch.is_grad_enabled():
        return function(*batches)
    run = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)  # nothing here is random
    outputs = [run(*samples) for samples in zip(*(batch.split(1) for batch in batches), strict=True)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class Recomputed(nn.Module):
    """What a block inherits first to be recomputed; its shapes stay."""

    def forward(self, *batches: Tensor) -> Tensor:
        return _recomputed(super().forward, *batches)


class RecomputedBasic(Recomputed, UnetrBasicBlock):
    """MONAI's block, recomputed."""


class RecomputedPrUp(Recomputed, UnetrPrUpBlock):
    """MONAI's block, recomputed."""


class RecomputedUp(Recomputed, SplitUp):
    """The decoder block with a frozen skip convolved apart, recomputed."""
