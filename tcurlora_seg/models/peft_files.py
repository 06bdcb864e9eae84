"""Import and export of LoRA in the file format of Hugging Face's PEFT, without PEFT installed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tcurlora_seg.adapters.lora import LoRA
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path, read_json, write_json
from tcurlora_seg.models.backbone import backbone_of
from tcurlora_seg.models.injection import inject
from tcurlora_seg.models.stacking import layers_of, named_stacks, stacks_for
from tcurlora_seg.models.trainable import trainable_parameters

_PREFIX = "base_model.model."
_NOT_LORA = ("use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "target_parameters",
             "layer_replication", "kasa_config",
             "use_qalora", "use_bdlora", "trainable_token_indices", "exclude_modules")  # fmt: skip


def load_peft(model: nn.Module, folder: str | Path) -> None:
    """Add the LoRA of a PEFT folder to a network, in place: one stack per kind of layer, qkv fused.

    Tensors of modules that PEFT saved whole, such as the decoder, are copied into the network and stay trainable.

    Args:
        model: a network without adapters, with the base weights of the LoRA.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        UserError: files missing or damaged, another method than plain LoRA, layers or shapes that do not fit.
    """
    config, tensors = _read(Path(folder))
    adapted = sorted({name.rsplit(".lora_", 1)[0] for name in tensors if ".lora_" in name})
    others = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    parameters = dict(model.named_parameters())
    unknown = [name for name in others if name not in parameters or others[name].shape != parameters[name].shape]
    plain = (".lora_A.weight", ".lora_B.weight")
    unknown += [name for name in tensors if ".lora_" in name and not name.endswith(plain)]
    if unknown:
        raise UserError(f"{folder}: {unknown[0]} does not fit the network, or is not of plain LoRA")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    method = partial(LoRA, rank=config["r"], alpha=scale * config["r"], dropout=config.get("lora_dropout", 0.0))
    methods: dict[str, Any] = {}
    for role, layers in _whole_layers(model).items():
        blocks = [block for block, layer in enumerate(layers) if layer in adapted]
        if blocks:
            stacks = named_stacks(role, stacks_for(model, [role], blocks))
            methods |= {name: (stack, method) for name, stack in stacks.items()}
    places = {slot.linear: (role, i) for role, (stack, _) in methods.items() for i, slot in enumerate(stack.slots)}
    strange = [name for name in adapted if name not in places]
    if strange or not places:
        raise UserError(f"{folder}: {(strange or ['nothing'])[0]} is no linear layer of the transformer's blocks")
    values: list[tuple[str, int, str, Tensor]] = []
    for linear, (role, i) in places.items():
        stack = methods[role][0]
        for letter, shape in (("A", (config["r"], stack.in_features)), ("B", (stack.out_features, config["r"]))):
            given = tensors.get(f"{linear}.lora_{letter}.weight")
            if given is None or tuple(given.shape) != shape:
                raise UserError(f"{folder}: {linear}.lora_{letter}.weight is missing or not {shape[0]} x {shape[1]}")
            values.append((role, i, letter, given))
    inject(model, methods, trainable=list(others), seed=0)
    with torch.no_grad():
        for name, tensor in others.items():
            parameters[name].copy_(tensor)
        for role, i, letter, tensor in values:
            model.get_parameter(f"adapters.{role}.{letter}.{i}").copy_(tensor)


def save_peft(model: nn.Module, folder: str | Path) -> None:
    """Write the LoRA of `model` as a PEFT folder, which `peft.PeftModel.from_pretrained(unetr, folder)` loads.

    Trainable modules of the base, such as the decoder, are written whole.

    Args:
        model: a network with the adapters of LoRA.
        folder: it gets `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        UserError: another method, a stack of q, k or v alone, different ranks or scales, or a partly trainable
            module: PEFT has no format for these.
    """
    network: Any = model
    tensors: dict[str, Tensor] = {}
    kinds = set()
    for name, adapter in getattr(network, "adapters", nn.ModuleDict()).items():
        if type(adapter) is not LoRA or not set(network.stacks[name].roles) <= set(_whole_layers(model)):
            whole = ", ".join(_whole_layers(model))
            raise UserError(f"stack '{name}' cannot be a PEFT file: only LoRA on whole layers can, that is on {whole}")
        for slot, a, b in zip(network.stacks[name].slots, adapter.A, adapter.B, strict=True):
            tensors |= {f"{slot.linear}.lora_A.weight": a, f"{slot.linear}.lora_B.weight": b}
        kinds.add((len(adapter.A[0]), adapter.scale, adapter.dropout.p))
    if len(kinds) != 1:
        raise UserError(f"a PEFT file needs one rank, scale and dropout for all LoRA stacks; here are {len(kinds)}")
    rank, scale, dropout = kinds.pop()
    trained = {name: p for name, p in trainable_parameters(model).items() if not name.startswith("adapters.")}
    modules = _whole_modules(model, trained)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "lora_dropout": dropout, "bias": "none",
              "target_modules": sorted({name.rsplit(".lora_", 1)[0] for name in tensors}), "modules_to_save": modules,
              "inference_mode": True, "task_type": None, "base_model_name_or_path": None}  # fmt: skip
    with atomic_path(Path(folder) / "adapter_model.safetensors") as temporary:
        kept = {_PREFIX + n: t.detach().cpu().contiguous() for n, t in {**tensors, **trained}.items()}
        save_file(kept, temporary, metadata={"format": "pt"})
    write_json(Path(folder) / "adapter_config.json", config)


def _whole_layers(model: nn.Module) -> dict[str, list[str]]:
    """Role -> layers, of the roles that are a linear layer each."""
    whole = {name: role for name, role in backbone_of(model).roles.items() if role.parts == 1}
    layers = {name: layers_of(model, name, role) for name, role in whole.items()}
    return {name: paths for name, paths in layers.items() if isinstance(model.get_submodule(paths[0]), nn.Linear)}


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors under MONAI's names."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no PEFT folder: it has no {name}")
    config = read_json(folder / "adapter_config.json")
    if not isinstance(config, dict):
        raise UserError(f"{folder}/adapter_config.json is no PEFT configuration")
    more = [key for key in _NOT_LORA if config.get(key)] + ["bias"] * (config.get("bias", "none") != "none")
    if str(config.get("init_lora_weights")).startswith(("pissa", "olora", "corda", "loftq")):
        more.append(f"init_lora_weights={config['init_lora_weights']}, which changes the base")
    numbers = all(isinstance(config.get(key), int | float) and config[key] > 0 for key in ("r", "lora_alpha"))
    if config.get("peft_type") != "LORA" or more or not numbers:
        found = f"{config.get('peft_type')} with {', '.join(more) or 'no rank'}"
        raise UserError(f"{folder} holds {found}: plain LoRA is read")
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder}/adapter_model.safetensors is damaged: {error}") from error
    return config, {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def _whole_modules(model: nn.Module, trained: Mapping[str, nn.Parameter]) -> list[str]:
    """The modules that train, as PEFT names them: it cannot wrap `out` itself, only the module within."""
    modules = {name.split(".")[0] for name in trained}
    for module in modules:
        for name, _ in model.get_submodule(module).named_parameters():
            if f"{module}.{name}" not in trained:
                raise UserError(f"a PEFT file holds whole modules, but {module}.{name} does not train with the rest")
    return sorted("out.conv" if module == "out" else module for module in modules)
