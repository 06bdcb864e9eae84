"""LoRA, DoRA, PiSSA and AdaLoRA give the outputs and gradients of PEFT's with the same numbers copied in."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from tcurlora_seg import adapt

LINEARS = ["attn.qkv", "attn.out_proj", "mlp.linear1", "mlp.linear2"]
PAIR = {"A": lambda layer: layer.lora_A["default"].weight, "B": lambda layer: layer.lora_B["default"].weight}
CASES = {  # method: its options, PEFT's configuration, where PEFT keeps each of our tensors and in which shape
    "lora": ({"rank": 4, "alpha": 6}, lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=LINEARS), PAIR),
    "dora": (
        {"rank": 4, "alpha": 6},
        lambda: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=LINEARS),
        {**PAIR, "magnitude": lambda layer: layer.lora_magnitude_vector["default"].weight},
    ),
    "pissa": (
        {"rank": 4, "core": False},
        lambda: peft.LoraConfig(r=4, lora_alpha=4, init_lora_weights="pissa", target_modules=LINEARS),
        PAIR,
    ),
    "adalora": (
        {"rank": 2, "alpha": 6},
        lambda: peft.AdaLoraConfig(init_r=3, target_r=2, lora_alpha=6, total_step=10, target_modules=LINEARS),
        {
            "P": lambda layer: layer.lora_B["default"],
            "E": lambda layer: layer.lora_E["default"],
            "Q": lambda layer: layer.lora_A["default"],
        },
    ),
}


@pytest.mark.parametrize("method", CASES)
def test_outputs_and_gradients_equal_pefts(method, tiny, image, stir, distance):
    """In double precision: in single, a unit that crosses the kink of its ReLU moves the gradient by 1e-3."""
    options, config, places = CASES[method]
    ours, image = stir(adapt(copy.deepcopy(tiny).double(), method, **options), size=0.1), image.double()
    with torch.random.fork_rng():
        theirs = peft.inject_adapter_in_model(config(), tiny).double()
    pairs = []
    for stack_name, stack in ours.stacks.items():
        for i, slot in enumerate(stack.slots):
            for tensor, place in places.items():
                mine, its = getattr(ours.adapters[stack_name], tensor)[i], place(theirs.get_submodule(slot.linear))
                its.data.copy_(mine.detach().view_as(its))
                pairs.append((mine, its))
    signs, outputs = torch.randn(1, 2, 32, 32, 32, generator=torch.Generator().manual_seed(1)).double(), []
    for network in (ours, theirs):
        outputs.append(network(image))
        (outputs[-1] * signs).sum().backward()
    assert distance(outputs[0], outputs[1]) < 1e-5
    mine, its = (torch.cat([p.grad.flatten() for p in side]) for side in zip(*pairs, strict=True))
    assert distance(mine, its) < 1e-5 and mine.norm() > 1
