"""Estimate of memory and time before a training, and remedies where memory does not suffice."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tcurlora_seg.errors import UserError
from tcurlora_seg.memory import available_memory
from tcurlora_seg.stopwatch import Stopwatch

_REMEDIES = (
    "smaller data.batch_size (with trainer.accumulate_grad_batches for the same mean gradient), smaller "
    "window, speed.checkpointing=true, or trainer.precision=bf16-mixed"
)
_STATES = 3  # an optimiser's numbers for each that trains: Adam's two means, and amsgrad's maximum
_BATCH = 2  # windows in a step, where there is the memory


class _Tally(TorchDispatchMode):
    """Counter of operations, and of the bytes of new tensors; `known` tensors and their views do not count."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.operations = self.most = self._now = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.operations += flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


class _Step(nn.Module):
    """A forward and a backward pass; as a module, so that `functional_call` can exchange its tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> None:
        logits = self.network(images)
        logits.float().softmax(1).sum().backward()


def estimate_step(
    network: nn.Module, shape: Sequence[int], device: torch.device, *, bf16: bool
) -> tuple[int, int]:
    """Bytes and floating-point operations of a training step, from shapes alone: nothing is computed.

    The bytes are parameters, optimiser states, and the peak of all other tensors in the forward and backward pass.

    Args:
        network: the network, ready to train; it is not changed.
        shape: of a batch, (images, channels, X, Y, Z).
        device: where the step will run; what runs in bfloat16, and by which kernels, differs between devices.
        bf16: whether the forward pass runs in bfloat16.
    """
    step = _Step(network)
    state = {**dict(step.named_parameters()), **dict(step.named_buffers())}
    plain = {name: tensor.detach() for name, tensor in state.items()}
    with FakeTensorMode() as mode:
        fakes = {
            name: mode.from_tensor(plain[name]).to(device).requires_grad_(tensor.requires_grad)
            for name, tensor in state.items()
        }
        with _Tally(fakes.values()) as tally, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            torch.func.functional_call(step, fakes, (torch.empty(*shape, device=device),))
    trained = sum(p.nbytes for p in network.parameters() if p.requires_grad)
    total = sum(tensor.nbytes for tensor in state.values()) + _STATES * trained + tally.most
    return total, tally.operations


def free_memory(device: torch.device) -> int | None:
    """Free bytes of the device; None where the system does not report them."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


def speed(device: torch.device, *, bf16: bool) -> float:
    """Floating-point operations per second of a convolution of 32 channels with a kernel of 3^3, both passes.

    Libraries must be loaded and clocks up, so passes are doubled, from an unmeasured one on, until they take 0.1 s.

    Args:
        device: where it runs.
        bf16: whether the forward pass runs in bfloat16.
    """
    channels, side = 32, 64 if device.type == "cuda" else 32
    kernels = torch.ones(channels, channels, 3, 3, 3, device=device, requires_grad=True)
    images = torch.ones(2, channels, side, side, side, device=device, requires_grad=True)

    def run(passes: int) -> None:
        for _ in range(passes):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                nn.functional.conv3d(images, kernels, padding=1).float().sum().backward()

    passes, seconds = 1, 0.0
    run(passes)
    while seconds < 0.1:
        passes *= 2
        watch = Stopwatch(device)
        run(passes)
        watch.mark()
        (seconds,) = watch.seconds()
    return passes * 3 * 2 * kernels.numel() * images[:, 0].numel() / seconds


def fitting_batch(
    network: nn.Module, window: Sequence[int], device: torch.device, *, bf16: bool, processes: int = 1
) -> int:
    """Windows a step: two, or one where the memory for a step of two is not there.

    Args:
        network: the network, ready to train.
        window: (channels, X, Y, Z).
        device: where the steps will run.
        bf16: whether the forward pass runs in bfloat16.
        processes: that train together; several take two, since each may see another amount of free memory.
    """
    free = free_memory(device)
    if processes > 1 or free is None:
        return _BATCH
    try:
        size, _ = estimate_step(network, (_BATCH, *window), device, bf16=bf16)
    except Exception:  # a network of one's own may compute what shapes alone do not decide
        return _BATCH
    return 1 if size > free else _BATCH


@contextmanager
def remedies() -> Iterator[None]:
    """Context manager that turns running out of memory into one line with the remedies.

    Raises:
        UserError: there was not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not short and "allocate memory" not in str(error):  # what PyTorch says on a CPU
            raise
        raise UserError(f"not enough memory for this step; what helps: {_REMEDIES}") from error


def describe_step(
    network: nn.Module, shape: Sequence[int], device: torch.device, *, bf16: bool, steps: int, batches: int = 1
) -> str:
    """Line on the expected memory and time, with the remedies where memory will not suffice.

    Args:
        network: the network, ready to train.
        shape: of a batch, (images, channels, X, Y, Z).
        device: where the steps will run.
        bf16: whether the forward pass runs in bfloat16.
        steps: number of steps.
        batches: of a step, whose gradients are accumulated.
    """
    try:
        size, operations = estimate_step(network, shape, device, bf16=bf16)
    except Exception as error:  # a network of one's own may compute what shapes alone do not decide
        return f"expected: no estimate of memory and time for this network ({type(error).__name__})"
    rate = 0.7 * speed(device, bf16=bf16)  # of which the packaged network reaches so much
    minutes = steps * batches * operations / rate / 60
    windows = "1 window" if shape[0] == 1 else f"{shape[0]} windows"
    line = f"expected: {size / 1e9:.1f} GB for a step of {windows}, "
    line += f"roughly {max(1, round(minutes))} min for {steps} steps"
    free = free_memory(device)
    if free is not None and size > free:
        line += f"; only {free / 1e9:.1f} GB are free. What helps: {_REMEDIES}"
    return line
