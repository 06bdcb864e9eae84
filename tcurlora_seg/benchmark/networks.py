"""Networks of a benchmark: adapted by any method, or references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.tproduct import tproduct
from tcurlora_seg.benchmark.setting import Setting
from tcurlora_seg.models.backbone import backbone_of, build_network
from tcurlora_seg.models.injection import adapt
from tcurlora_seg.models.linear import AdaptedLinear
from tcurlora_seg.models.speed import speed_up
from tcurlora_seg.models.stacking import layers_of
from tcurlora_seg.models.trainable import expand


def contestant(model: Mapping[str, Any], setting: Setting) -> nn.Module:
    """A randomly initialised network with the adapters and options of a contestant, ready to train.

    Raises:
        UserError: an unknown method, or a rank that it cannot have.
    """
    channels = {key: model[key] for key in ("in_channels", "out_channels")}
    network = build_network(model, [setting.side] * 3, **channels)
    if setting.method == "floor":
        adapt(network, "decoder_only")
        embedding = backbone_of(network).inputs[0].rpartition(".")[0]
        network.get_submodule(embedding).register_forward_hook(_require_gradient)
    elif setting.method == "peft_lora":
        _add_peft_lora(network, setting.rank or 32)
    elif setting.method == "rebuilt":
        adapt(network, "tcurlora", rank=setting.rank)
        _rebuild_every_step(network)
    else:
        adapt(network, setting.method, rank=setting.rank)
    if setting.fast:
        speed_up(
            network, half=setting.precision == "bf16-mixed", channels_last=setting.channels_last,
            checkpointing=setting.checkpointing, tf32=setting.tf32,
        )  # fmt: skip
    return network.train()


def _require_gradient(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.requires_grad_() if torch.is_grad_enabled() else output


def _add_peft_lora(network: nn.Module, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    backbone = backbone_of(network)
    decoder = expand(backbone.globs(["decoder"]), dict(network.named_parameters()))
    layers = {path for role, place in backbone.roles.items() for path in layers_of(network, role, place)}
    linears = sorted(path for path in layers if isinstance(network.get_submodule(path), nn.Linear))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=linears), network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in decoder or "lora_" in name)


class RebuiltLinear(AdaptedLinear):
    """Linear layer whose weight is rebuilt in every step, as in tCURLoRA's public code."""

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for item in self.attached:
            adapter: Any = item.adapter
            parts += [(first, adapter.rebuilt[i]) for i, (first, _) in zip(item.indices, item.rows, strict=True)]
        update = torch.cat([part for _, part in sorted(parts, key=lambda pair: pair[0])])
        return F.linear(x, self.weight + update, self.bias)


def _rebuild_every_step(network: Any) -> None:
    def rebuild(module: nn.Module, inputs: Any) -> None:
        with torch.autocast(inputs[0].device.type, enabled=False):
            for adapter in network.adapters.values():
                adapter.rebuilt = tproduct(tproduct(adapter.C, adapter.core), adapter.R)

    network.register_forward_pre_hook(rebuild)
    for module in network.modules():
        if isinstance(module, AdaptedLinear):
            module.__class__ = RebuiltLinear
