"""The backbone's step: the same network, computed with less time or memory.

Each option swaps the class of some of MONAI's modules for a subclass here: parameters, state-dict keys and results stay
(to rounding), and deep copies, merging and export know nothing of it.
"""

from __future__ import annotations

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
    channels_last: bool = True,
    fused_attention: bool = True,
    split_skips: bool = True,
    checkpointing: bool = False,
) -> UNETR:
    """Choose how a UNETR computes, in place.

    Args:
        network: the network, with or without adapters.
        channels_last: keep volumes channels-last from one convolution to the next, in which processors are faster.
        fused_attention: PyTorch's fused attention kernel, which never stores the attention matrix.
        split_skips: convolve a skip connection that needs no gradient apart from what it is joined with: no gradient
            is computed for it, and the two are never copied together.
        checkpointing: store nothing inside the convolution blocks and compute it again in the backward pass: less
            memory for more time.
    """
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
    instance and batch normalisation are one, and the latter has a kernel for this layout.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, X, Y, Z) to the same shape and layout."""
        normed = [F.batch_norm(s, None, None, self.weight, self.bias, True, 0.0, self.eps) for s in x.split(1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


class SplitUp(UnetrUpBlock):
    """MONAI's decoder block with conv([a, skip]) taken as conv_a(a) + conv_skip(skip), where the skip is frozen."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (batch, in, X, Y, Z) and the skip (batch, out, 2 X, 2 Y, 2 Z) to the skip's shape."""
        if skip.requires_grad or not torch.is_grad_enabled():
            return super().forward(x, skip)
        a, block = self.transp_conv(x), self.conv_block

        def joined(layer: Any) -> Tensor:
            conv = layer.conv
            ours, theirs = conv.weight.split(a.shape[1], dim=1)
            return F.conv3d(a, ours, conv.bias, padding=conv.padding) + F.conv3d(skip, theirs, padding=conv.padding)

        y = block.norm2(block.conv2(block.lrelu(block.norm1(joined(block.conv1)))))
        return block.lrelu(y + block.norm3(joined(block.conv3)))


class _Recomputed(nn.Module):
    """Stores its inputs alone and runs again in the backward pass."""

    def forward(self, *inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*inputs)
        # nothing random happens in these blocks
        return checkpoint(super().forward, *inputs, use_reentrant=False, preserve_rng_state=False)


class RecomputedBasic(_Recomputed, UnetrBasicBlock):
    """MONAI's block, recomputed."""


class RecomputedPrUp(_Recomputed, UnetrPrUpBlock):
    """MONAI's block, recomputed."""


class RecomputedUp(_Recomputed, UnetrUpBlock):
    """MONAI's block, recomputed."""


class RecomputedSplitUp(_Recomputed, SplitUp):
    """The decoder block above, recomputed."""
