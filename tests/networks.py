"""Small networks of every kind, randomly started, each with an image for it."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from monai.networks.nets import ViT
from omegaconf import OmegaConf
from torch import Tensor, nn

from tcurlora_seg.config.paths import options
from tcurlora_seg.models.backbone import build_network

_INSTALL = "pip install --no-deps dynamic-network-architectures 'timm<1.0.23'"
NETWORKS = ("unetr_tiny", "swin_unetr_tiny", "primus_tiny", "a foreign ViT")
ROLES = {
    "q": ("blocks.*.attn.qkv", 0, 3), "k": ("blocks.*.attn.qkv", 1, 3), "v": ("blocks.*.attn.qkv", 2, 3),
    "o": "blocks.*.attn.out_proj", "up": "blocks.*.mlp.linear1", "down": "blocks.*.mlp.linear2",
}  # fmt: skip


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules called torchvision in which every name is there and does nothing.

    timm imports torchvision, but Primus computes with nothing of it; PyPI's build cannot be loaded beside every build
    of torch.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        found = name.split(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if found else None

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__getattr__"] = lambda name: MagicMock()


def need_primus() -> None:
    """Skip a test where Primus is not installed; let it be imported where torchvision is missing or cannot be."""
    for package in ("dynamic_network_architectures", "timm"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: {_INSTALL}")
    stand_in = _StandIn()
    sys.meta_path.insert(0, stand_in)
    try:
        importlib.import_module("dynamic_network_architectures.architectures.primus")
    finally:
        sys.meta_path.remove(stand_in)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            if sys.modules[name].__spec__.loader is stand_in:
                del sys.modules[name]


def make(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """One of NETWORKS in evaluation mode; `changes` are keys of its configuration."""
    if name.startswith("primus"):
        need_primus()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name not in options("model"):
            return Classifier().eval()
        config: Any = {**OmegaConf.to_container(OmegaConf.load(options("model")[name])), **changes}
        channels = {key: config[key] for key in ("in_channels", "out_channels")}
        return build_network(config, config.get("window", config.get("img_size")), **channels).eval()


def picture(name: str, channels: int = 1) -> Tensor:
    """A batch of one image for it."""
    sides = (32, 32, 64) if name.startswith("swin") else (32, 32, 32)
    return torch.randn(1, channels, *sides, generator=torch.Generator().manual_seed(0))


class Classifier(ViT):
    """MONAI's ViT with a class token: a network without a description."""

    def __init__(self) -> None:
        super().__init__(1, (32, 32, 32), 16, 24, 48, 3, 2, classification=True, num_classes=2, qkv_bias=True)
        for block in self.blocks:
            block.norm_cross_attn = nn.Identity()  # which MONAI builds and never uses

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]
