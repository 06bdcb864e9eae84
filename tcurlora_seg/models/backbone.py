"""The backbone's step: the same network, computed with less time or memory.

Each option swaps the class of some of MONAI's modules for a subclass here: parameters, state-dict keys and results stay
(to rounding), and deep copies, merging and export know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks.selfattention import SABlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from monai.networks.nets import UNETR
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def speed_up(
    network: UNETR,
    *,
    half: bool = False,
    channels_last: bool | None = None,
    fused_attention: bool = True,
    split_skips: bool = True,
    checkpointing: bool = False,
) -> UNETR:
    """Choose how a UNETR computes, in place.

    Args:
        network: the network, with or without adapters.
        half: whether it will compute in 16 bits.
        channels_last: keep volumes channels-last from one convolution to the next. None: in 16 bits, where that is
            faster; in float32 processors are slower with it and lose digits.
        fused_attention: PyTorch's fused attention kernel, which never stores the attention matrix.
        split_skips: convolve a skip connection that needs no gradient apart from what it is joined with: no gradient
            is computed for it, and the two are never copied together.
        checkpointing: store little inside the convolution blocks and compute it again in the backward pass: less memory
            for more time.
    """
    channels_last = half if channels_last is None else channels_last
    if channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    swaps: dict[type[nn.Module], type[nn.Module]] = {}
    if channels_last:
        swaps[nn.InstanceNorm3d] = StraightInstanceNorm
    if fused_attention:
        swaps[SABlock] = FusedAttention
    if split_skips:
        swaps[UnetrUpBlock] = SplitUp
    if checkpointing:
        swaps |= {UnetrBasicBlock: RecomputedBasic, UnetrPrUpBlock: RecomputedPrUp}
        swaps[UnetrUpBlock] = RecomputedSplitUp if split_skips else RecomputedUp
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
    """Instance normalisation that leaves channels-last volumes as they lie.

    PyTorch's own copies them to channels-first and the next convolution copies them back. Over a single sample
    instance and batch normalisation are one, and the latter has a kernel for this layout. On a CPU that kernel adds
    number by number in float32, which is off by 2e-4 over a million voxels: less than bfloat16's rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, X, Y, Z) to the same shape and layout."""
        normed = [F.batch_norm(s, None, None, self.weight, self.bias, True, 0.0, self.eps) for s in x.split(1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


class PartedUp(UnetrUpBlock):
    """MONAI's decoder block, its steps cut into three parts."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (batch, in, X, Y, Z) and the skip (batch, out, 2 X, 2 Y, 2 Z) to the skip's shape."""
        a = self.transp_conv(x)
        return self._last(a, skip, self._second(self._first(a, skip)))

    def _first(self, a: Tensor, skip: Tensor) -> Tensor:
        block = self.conv_block
        return block.lrelu(block.norm1(self._joined(block.conv1, a, skip)))

    def _second(self, y: Tensor) -> Tensor:
        return self.conv_block.norm2(self.conv_block.conv2(y))

    def _last(self, a: Tensor, skip: Tensor, y: Tensor) -> Tensor:
        block = self.conv_block
        return block.lrelu(y + block.norm3(self._joined(block.conv3, a, skip)))

    def _joined(self, layer: Any, a: Tensor, skip: Tensor) -> Tensor:
        return layer(torch.cat([a, skip], 1))


class SplitUp(PartedUp):
    """The decoder block with conv([a, skip]) taken as conv_a(a) + conv_skip(skip), where the skip is frozen."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map x and the skip to the skip's shape."""
        if skip.requires_grad or not torch.is_grad_enabled():
            return UnetrUpBlock.forward(self, x, skip)  # joins the two once, not for each convolution
        return super().forward(x, skip)

    def _joined(self, layer: Any, a: Tensor, skip: Tensor) -> Tensor:
        if skip.requires_grad:
            return super()._joined(layer, a, skip)
        conv = layer.conv
        ours, theirs = conv.weight.split(a.shape[1], dim=1)
        return F.conv3d(a, ours, conv.bias, padding=conv.padding) + F.conv3d(skip, theirs, padding=conv.padding)


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The function's output; it stores its inputs alone and runs again in the backward pass."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    # nothing random happens in these blocks
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class RecomputedBasic(UnetrBasicBlock):
    """MONAI's block, recomputed."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, X, Y, Z) to (batch, out, X, Y, Z)."""
        return _recomputed(super().forward, x)


class RecomputedPrUp(UnetrPrUpBlock):
    """MONAI's block, recomputed."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, X, Y, Z) to (batch, out, 2^k X, 2^k Y, 2^k Z)."""
        return _recomputed(super().forward, x)


class RecomputedUp(PartedUp):
    """The decoder block, recomputed part by part: its volumes are the largest and never there all at once."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map x and the skip to the skip's shape."""
        if not torch.is_grad_enabled():
            return UnetrUpBlock.forward(self, x, skip)
        y = _recomputed(lambda x, skip: self._first(self.transp_conv(x), skip), x, skip)
        y = _recomputed(self._second, y)
        return _recomputed(lambda x, skip, y: self._last(self.transp_conv(x), skip, y), x, skip, y)


class RecomputedSplitUp(RecomputedUp, SplitUp):
    """Both: recomputed, and a frozen skip convolved apart."""
