"""Adapter injection and merging, temporary or into a plain copy."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from numbers import Integral
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tcurlora_seg.adapters.base import Adapter
from tcurlora_seg.adapters.stacks import Stack, refuse_overlap
from tcurlora_seg.config.paths import options
from tcurlora_seg.config.schema import check_value, constructor
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import Role, backbone_of
from tcurlora_seg.models.foreign import describe, stacks_by_shape
from tcurlora_seg.models.linear import Adapted, AdaptedLinear, AdaptedNorm, Attached
from tcurlora_seg.models.pretrained import describe_base
from tcurlora_seg.models.stacking import named_stacks, stacked_weights, stacks_for
from tcurlora_seg.models.trainable import set_trainable
from tcurlora_seg.randomness import generator

_log = logging.getLogger(__name__)
_GIVEN = {"stack", "weights", "generator"}  # what `inject` hands to every method


def inject(
    model: nn.Module,
    methods: Mapping[str, tuple[Stack, Callable[..., Adapter]]],
    *,
    trainable: Sequence[str],
    seed: int,
) -> nn.Module:
    """Add one adapter per stack to `model`, in place, and set the trainable parameters.

    Afterwards `model.adapters` is a ModuleDict by stack name, `model.stacks` the stacks by the same names, every
    adapted layer an `Adapted` one, and the state dict has the old keys plus `adapters.<stack>.<tensor>`.

    Args:
        model: the network; on error it is left as it was.
        methods: for each stack name the stack and the builder of its adapter: `method(stack, weights, generator=g)`.
        trainable: globs over the parameters that train beside the adapters (see `trainable.expand`).
        seed: every stack draws from its own generator, derived from the seed and its name.

    Raises:
        UserError: the network has adapters already, stacks overlap, a method refuses its stack, a bad glob.
    """
    if hasattr(model, "adapters"):
        raise UserError("the network has adapters already: merge them first, or start from the base again")
    stacks = {name: stack for name, (stack, _) in methods.items()}
    refuse_overlap(stacks)
    built = {
        name: method(stack, stacked_weights(model, stack), generator=generator(seed, "adapter", name))
        for name, (stack, method) in methods.items()
    }
    set_trainable(model, trainable, {f"{slot.linear}.weight" for s in stacks.values() for slot in s.slots})
    for name, stack in stacks.items():  # made in float32 at least; a network in half precision computes in its own
        built[name].to(model.get_parameter(f"{stack.slots[0].linear}.weight").dtype)
    model.adapters = nn.ModuleDict(built)
    model.stacks = stacks  # type: ignore[assignment]
    for name, stack in stacks.items():
        _attach(model, stack, built[name])
    return model


def _attach(model: nn.Module, stack: Stack, adapter: Adapter) -> None:
    """Point the layers of a stack at its adapter; slices of one layer share an input, hence one entry."""
    for linear in dict.fromkeys(slot.linear for slot in stack.slots):
        layer = model.get_submodule(linear)
        if not isinstance(layer, Adapted):
            layer = AdaptedLinear(layer) if isinstance(layer, nn.Linear) else AdaptedNorm(layer)  # type: ignore[arg-type]
            parent, _, child = linear.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
        members = [(i, slot) for i, slot in enumerate(stack.slots) if slot.linear == linear]
        rows = [(slot.first, slot.last) for _, slot in members]
        layer.attached.append(Attached(adapter, [i for i, _ in members], rows))


def adapt(
    model: nn.Module,
    method: str = "tcurlora",
    *,
    rank: int | None = None,
    seed: int = 0,
    roles: Mapping[str, str | Role | tuple[str, int, int]] | None = None,
    **overrides: Any,
) -> nn.Module:
    """Add the adapters of `configs/adapter/<method>.yaml` to a network, in place, for a custom training loop.

        model = tcurlora_seg.adapt(unetr, method="tcurlora", rank=8)

    Args:
        model: the network with its pre-trained weights; they are the base that `save_model` refers to.
        method: name of the file.
        rank: None for the file's own.
        seed: for the methods that draw.
        roles: roles of a transformer that the package does not know (see `describe`). Roles with weights of equal
            shapes then form one stack, and only the adapters train, unless `trainable` is given.
        overrides: other keys of the file, or of its `method`, for example `blocks=[0, 1]` or `selection="uniform"`.

    Raises:
        UserError: an unknown method or key, or a value that the method refuses.
    """
    if rank is not None and not isinstance(rank, Integral):
        raise UserError(f"rank={rank!r} is not what was expected: a whole number")
    config = read_adapter(method)
    if rank is not None or overrides.get("energy") is not None:  # which takes the place of the file's rank
        overrides["rank"] = None if rank is None else int(rank)
    if overrides.get("blocks") is not None:
        overrides["blocks"] = list(map(int, overrides["blocks"]))
    for key, value in overrides.items():
        if key == "lr":
            raise UserError("lr=... has no effect in a loop of your own: give the learning rate to its optimizer")
        node = config if key in config else config.method
        if node is None or key not in node or key.startswith("_"):
            raise UserError(f"adapter '{method}' has no key '{key}': see configs/adapter/{method}.yaml")
        node[key] = value
    if roles is not None:
        describe(model, roles)
        if config.stacks and "stacks" not in overrides:
            config.stacks = stacks_by_shape(model)
    if hasattr(model, "base"):
        return adapt_from_config(model, config, seed)
    model.base = describe_base(model)  # type: ignore[assignment]
    try:
        return adapt_from_config(model, config, seed)
    except Exception:
        del model.base  # its weights may change before the next attempt
        raise


def read_adapter(method: str) -> DictConfig:
    """Adapter configuration of `configs/adapter/<method>.yaml`.

    Raises:
        UserError: no file of that name.
    """
    files = options("adapter")
    if method not in files:
        raise UserError(f"unknown method '{method}': choose from {', '.join(files)}")
    # a parent, since the file refers to its own keys as ${adapter.rank}
    return OmegaConf.create({"adapter": OmegaConf.load(files[method])}).adapter


def adapt_from_config(model: nn.Module, config: Mapping[str, Any] | DictConfig, seed: int) -> nn.Module:
    """Add the adapters of an adapter configuration to a network, in place.

    Args:
        model: the network with its pre-trained weights.
        config: `rank`, `trainable`, `blocks`, `method` (null for none) and `stacks`, where each stack has `roles`
            and may have a `rank` or a `method` of its own.
        seed: see `inject`.

    Raises:
        UserError: see `inject` and `stacks_for`.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    methods, ranked = {}, False
    trainable = [plain["trainable"]] if isinstance(plain["trainable"], str) else plain["trainable"]
    for name, entry in plain["stacks"].items():
        if not str(name).isidentifier() or hasattr(nn.ModuleDict(), name):
            raise UserError(f"adapter.stacks: '{name}' cannot name a stack: take another word, without dots")
        if not {"roles"} <= set(entry) <= {"roles", "rank", "method"}:
            raise UserError(f"adapter.stacks.{name} has the keys {', '.join(entry)}: roles, rank and method are known")
        words = [entry["roles"]] if isinstance(entry["roles"], str) else entry["roles"]
        settings = dict(entry.get("method") or plain["method"] or {})
        if "_target_" not in settings:
            raise UserError(f"adapter.stacks.{name} has no method")
        target = settings.pop("_target_")
        method: Any = get_class(target)
        settings.pop("_partial_", None)
        takes = signature(method).parameters
        if "rank" in takes:
            ranked = True
            settings.setdefault("rank", plain["rank"])
            settings["rank"] = settings["rank"] if entry.get("rank") is None else entry["rank"]
        elif entry.get("rank") is not None:
            _log.warning("adapter.stacks.%s.rank=%s is ignored: its method has no rank", name, entry["rank"])
        wrong = [key for key in settings if key not in takes]
        wrong += [key for key, p in takes.items() if p.default is p.empty and key not in {*settings, *_GIVEN}]
        if wrong:
            keys = ", ".join(key for key in takes if key not in _GIVEN)
            raise UserError(f"adapter.stacks.{name}.method: '{wrong[0]}' is missing or too many; "
                            f"{method.__name__} takes {keys}")  # fmt: skip
        if target.startswith("tcurlora_seg."):
            for key, value in settings.items():
                check_value(key, value, constructor(target).get(key))
        for own, stack in named_stacks(name, stacks_for(model, words, plain["blocks"])).items():
            if not stack.in_features and not method.vectors:
                listed = ", ".join(stack.roles)
                raise UserError(f"adapter.stacks.{name}: {method.__name__} adapts matrices, but {listed} are the "
                                "vectors of LayerNorms: choose roles of linear layers")  # fmt: skip
            if own in methods:
                raise UserError(f"adapter.stacks: {own} is the name of a part of another stack: take another word")
            methods[own] = stack, partial(method, **settings)
    if plain["rank"] is not None and not ranked:
        _log.warning("adapter.rank=%s is ignored: this method has no rank", plain["rank"])
    if plain["blocks"] is not None and not methods:
        _log.warning("adapter.blocks=%s is ignored: this method adapts no layer", plain["blocks"])
    inject(model, methods, trainable=trainable, seed=seed)
    model.recipe = {"adapter": plain, "seed": seed}  # type: ignore[assignment]
    return model


@contextmanager
def merged(model: nn.Module) -> Iterator[nn.Module]:
    """Context manager for merged weights: the updates are added to the weights, for inference at the base's cost.

    Afterwards the original tensors (the same objects) are restored. It can be nested.
    """
    layers = [m for m in model.modules() if isinstance(m, Adapted) and m.active]
    originals = [(layer, layer.weight.data, layer.bias) for layer in layers]
    try:
        for layer in layers:
            weight, bias = layer.merged()
            layer.weight.data = weight
            layer.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
            layer.active = False
        yield model
    finally:
        for layer, weight, bias in originals:
            layer.weight.data, layer.active = weight, True
            layer.register_parameter("bias", bias)


def merge(model: nn.Module) -> nn.Module:
    """Merged copy: the plain network with the updates in its weights, all of them trainable.

    Where a method shifts q, k or v of a UNETR, the copy is a `UNETR(..., qkv_bias=True)`.
    """
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, Adapted):
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, layer.plain())
    backbone_of(plain).finish_merge(plain)
    for attribute in ("adapters", "stacks", "recipe", "base"):
        if hasattr(plain, attribute):
            delattr(plain, attribute)
    set_trainable(plain, ["**"], set())
    return plain
