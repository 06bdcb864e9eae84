"""Speed and memory options: the same network, computed in less time or memory.

Some of the modules get a subclass from here as their class: parameters, state-dict keys and results stay the same
(to rounding), and deep copies, merging and export work as before.
"""

from __future__ import annotations

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
    """Set the speed and memory options of a network of MONAI's blocks, in place.

    Instance normalisation avoids copies of its volume, attention does not store its matrix, and a skip connection
    that needs no gradient is convolved separately instead of concatenated.

    Args:
        network: the network, with or without adapters.
        half: whether it computes in 16 bits.
        channels_last: keep volumes channels-last from one convolution to the next. None: in 16 bits, where that is
            faster; in float32 processors are slower with it and lose digits.
        checkpointing: activation checkpointing of the convolution blocks, one sample at a time: their inputs are stored
            and the rest is recomputed in the backward pass; less memory, more time.
        tf32: TensorFloat-32 in matrix products on GPUs, which is PyTorch's default for convolutions. It is a setting of
            the whole process; None leaves it unchanged.
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
    if half:
        swaps[nn.Conv3d] = FullPrecisionWhereSmall
    if checkpointing:
        swaps |= {UnetrBasicBlock: RecomputedBasic, UnetrPrUpBlock: RecomputedPrUp, UnetrUpBlock: RecomputedUp}
    for module in network.modules():
        if not getattr(module, "save_attn", False):  # the kernel keeps no attention matrix to look at
            module.__class__ = swaps.get(type(module), type(module))
    return network


class FusedAttention(SABlock):
    """Fused attention, softmax(q k' / sqrt d) v in one kernel; MONAI's own option applies dropout in evaluation too."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Map tokens (batch, tokens, hidden) to the same shape; UNETR never gives a mask."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.dim_head)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout_rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask, dropout, scale=self.scale)
        return self.drop_output(self.out_proj(y.transpose(1, 2).flatten(2)))


class StraightInstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation without copies of the volume.

    PyTorch's own returns a view, and in-place operations after it (activation, sum) then copy whole volumes in the
    backward pass. It also copies channels-last volumes to channels-first, and the next convolution copies them back.
    For a single sample, instance and batch normalisation are equal, and the latter has a kernel for this layout. On a
    CPU that kernel sums sequentially in float32: an error of 2e-4 over a million voxels, below bfloat16's rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, X, Y, Z) to the same shape and layout."""
        if x.is_contiguous():
            y: Tensor = torch.ops.aten._unsafe_view(super().forward(x), x.shape)  # a view that autograd takes for none
            return y
        normed = [F.batch_norm(s, None, None, self.weight, self.bias, True, 0.0, self.eps) for s in x.split(1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


class FullPrecisionWhereSmall(nn.Conv3d):
    """Convolution in float32 where a volume is smaller than the kernel, under autocast on a CPU.

    There PyTorch's bfloat16 kernel (2.13, oneDNN) takes the gradient of the weight partly from memory that nobody has
    written: now and then it is NaN. The deepest level of SwinUNETR has 2 voxels a side for windows of 64.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (batch, in, X, Y, Z) to (batch, out, X, Y, Z)."""
        small = input.device.type == "cpu" and min(input.shape[2:]) < max(self.kernel_size)
        if not (small and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


class SplitUp(UnetrUpBlock):
    """MONAI's decoder block with conv([a, skip]) computed as conv_a(a) + conv_skip(skip), for a frozen skip."""

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


class Recomputed(nn.Module):
    """Mixin for activation checkpointing of a block, sample by sample; it comes first among the bases.

    Only the inputs are stored. The backward pass recomputes one sample at a time, and so holds the intermediate
    results of one sample.
    """

    def forward(self, *batches: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*batches)
        run = partial(checkpoint, super().forward, use_reentrant=False, preserve_rng_state=False)  # nothing is random
        outputs = [run(*samples) for samples in zip(*(batch.split(1) for batch in batches), strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class RecomputedBasic(Recomputed, UnetrBasicBlock):
    """MONAI's `UnetrBasicBlock` with activation checkpointing."""


class RecomputedPrUp(Recomputed, UnetrPrUpBlock):
    """MONAI's `UnetrPrUpBlock` with activation checkpointing."""


class RecomputedUp(Recomputed, SplitUp):
    """`SplitUp` with activation checkpointing."""
