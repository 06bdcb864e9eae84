"""A network of one's own, described by nothing but this file: three convolutions around two transformer blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.lora import LoRA
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import Backbone, Role


class ToyBackbone(Backbone):
    """Facts of `Toy`, which takes any window whose sides are multiples of 4."""

    head = ("head.weight", "head.bias")
    inputs = ("stem.weight",)
    roles: ClassVar = {
        "q": Role("body.*.q"),
        "k": Role("body.*.k"),
        "v": Role("body.*.v"),
        "o": Role("body.*.o"),
        "up": Role("body.*.up"),
        "down": Role("body.*.down"),
    }
    words: ClassVar = {"qkv": ("q", "k", "v")}
    groups: ClassVar = {"decoder": ("rise.**", "head.**")}
    exported = "toy.Toy"

    def check(self, model: Mapping[str, Any], window: Sequence[int]) -> None:
        if any(side % 4 for side in window):
            raise UserError(f"window={list(window)}: multiples of 4 are needed")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("q", "k", "v", "o"):
            setattr(self, name, nn.Linear(width, width))
        self.up, self.down, self.norm = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.o(nn.functional.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
        return x + self.down(torch.relu(self.up(x)))


class Toy(nn.Module):
    described_by = ToyBackbone()

    def __init__(self, *, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(in_channels, width, 4, stride=4)
        self.body = nn.ModuleList(Block(width) for _ in range(2))
        self.rise = nn.ConvTranspose3d(width, width, 4, stride=4)
        self.head = nn.Conv3d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.body:
            tokens = block(tokens)
        return self.head(torch.relu(self.rise(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))))


def build_toy(*, in_channels: int, out_channels: int, width: int) -> Toy:
    return Toy(in_channels=in_channels, out_channels=out_channels, width=width)


BACKBONE = Toy.described_by


class MyLoRA(LoRA):
    """A method of one's own."""
