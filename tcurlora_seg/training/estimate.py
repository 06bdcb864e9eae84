"""What a training step will take, told before it starts, and what to do when it does not fit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tcurlora_seg.errors import UserError
from tcurlora_seg.memory import available_memory

_REMEDIES = (
    "smaller data.batch_size (with trainer.accumulate_grad_batches for the same mean gradient), smaller "
    "model.img_size, speed.checkpointing=true, or trainer.precision=bf16-mixed"
)
_STATES = 3  # an optimiser's numbers for each that trains: Adam's two means, and amsgrad's maximum


def estimate_step(network: nn.Module, shape: Sequence[int], *, bf16: bool) -> tuple[int, int]:
    """Bytes and floating-point operations of one training step, from shapes alone: nothing is computed.

    The bytes are parameters, gradients, the optimiser's states and all that the forward pass keeps for the backward
    pass, with a tenth on top for what comes and goes. Backward counts as much as forward, and half of it again for the
    weights that train.

    Args:
        network: the network, ready to train; it is not changed.
        shape: of a batch, (images, channels, X, Y, Z).
        bf16: whether the forward pass runs in bfloat16.
    """
    kept: dict[int, int] = {}  # storage: bytes; the graph holds the storages until all are counted

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor.detach()  # a node that kept its own output would never be freed

    counter = FlopCounterMode(display=False)
    with FakeTensorMode() as mode:
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        fakes: dict[str, Tensor] = {name: mode.from_tensor(tensor) for name, tensor in state.items()}
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = torch.func.functional_call(network, fakes, (torch.empty(*shape),))
            logits.float().softmax(1)
        own = {tensor.untyped_storage()._cdata for tensor in fakes.values()}
    activations = sum(size for storage, size in kept.items() if storage not in own)
    parameters = list(network.parameters())
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    share = trained / max(1, sum(p.nbytes for p in parameters))
    total = sum(p.nbytes for p in parameters) + (1 + _STATES) * trained + int(1.1 * activations)
    return total, int(counter.get_total_flops() * (2 + share / 2))


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where the system does not say."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


def speed(device: torch.device, *, bf16: bool) -> float:
    """Floating-point operations in a second of a product of matrices, from a tenth of a second of them."""
    a = torch.ones(1024, 1024, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < 0.1:
        (a @ a).sum().item()
        done += 1
    return done * 2 * 1024**3 / (time.perf_counter() - begun)


@contextmanager
def remedies() -> Iterator[None]:
    """Turn running out of memory into one line that says what helps.

    Raises:
        UserError: there was not enough memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(f"not enough memory for this step; what helps: {_REMEDIES}") from error
    except RuntimeError as error:
        if "allocate memory" in str(error):  # what PyTorch says on a CPU
            raise UserError(f"not enough memory for this step; what helps: {_REMEDIES}") from error
        raise


def describe_step(network: nn.Module, shape: Sequence[int], device: torch.device, *, bf16: bool, steps: int) -> str:
    """One line: memory and time that `steps` steps are expected to take, and a warning where they will not fit."""
    size, operations = estimate_step(network, shape, bf16=bf16)
    minutes = steps * operations / (0.25 * speed(device, bf16=bf16)) / 60  # convolutions reach about a quarter of it
    line = f"expected: {size / 1e9:.1f} GB for a step, roughly {max(1, round(minutes))} min for {steps} steps"
    free = free_memory(device)
    if free is not None and size > free:
        line += f"; only {free / 1e9:.1f} GB are free. What helps: {_REMEDIES}"
    return line
