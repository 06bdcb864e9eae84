"""Benchmark worker: one contestant in a separate process; answers each command line with a line of JSON.

python -m tcurlora_seg.benchmark.worker '{"setting": {...}, "model": {...}, "optimizer": {...}, ...}'
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from monai.losses import DiceCELoss
from torch import Tensor

from tcurlora_seg.benchmark.networks import contestant
from tcurlora_seg.benchmark.setting import STEP_PARTS, Setting
from tcurlora_seg.data.augmentation import Augmentation
from tcurlora_seg.data.augmentation.crop import foreground_spots
from tcurlora_seg.inference.windows import Predictor
from tcurlora_seg.memory import peak_memory, peak_of_tensors
from tcurlora_seg.models.checkpoint import save_model
from tcurlora_seg.models.injection import merged
from tcurlora_seg.models.precision import autocast, choose_device
from tcurlora_seg.models.trainable import trainable_parameters
from tcurlora_seg.randomness import generator
from tcurlora_seg.stopwatch import Stopwatch


class Worker:
    """Contestant with its network, its optimiser and random data of the right size.

    Args:
        setting: the contestant.
        model: configuration of the network.
        optimizer: configuration of the optimiser.
        device: auto, cpu, cuda, ...
        seed: of the weights and the data.
    """

    def __init__(
        self, setting: Setting, *, model: Mapping[str, Any], optimizer: Mapping[str, Any], device: str, seed: int
    ) -> None:
        torch.manual_seed(seed)
        torch.backends.cudnn.benchmark = True  # as configs/trainer/default.yaml
        self.setting, self.device = setting, choose_device(device)
        self.network: Any = contestant(model, setting).to(self.device)
        self.forward: Any = torch.compile(self.network) if setting.compile else self.network
        self.optimizer = instantiate(optimizer)(trainable_parameters(self.network).values())
        self.criterion = DiceCELoss(softmax=True, to_onehot_y=True)
        self.augmentation = Augmentation()
        self.draws = generator("benchmark", seed)
        size = [setting.side * 3 // 2] * 3
        self.image = torch.randn(model["in_channels"], *size, generator=self.draws)
        self.label = (self.image[:1] > 2).to(torch.uint8)
        self.spots = foreground_spots(self.label)

    def turn(self, act: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Result of `act()`; on a GPU of a second call, since other contestants use its memory between turns."""
        if self.device.type != "cuda":
            return act()
        act()
        result = act()
        torch.cuda.empty_cache()
        return result

    def step(self) -> dict[str, float]:
        """One training step: seconds of its parts, seconds of processor time for the whole, and the loss."""
        watch, processor = Stopwatch(self.device), time.process_time()
        pairs = [self._draw() for _ in range(self.setting.batch)]
        image, label = (torch.stack(items).to(self.device) for items in zip(*pairs, strict=True))
        watch.mark()
        with autocast(self.setting.precision, self.device):
            logits = self.forward(image)
        loss = self.criterion(logits.float(), label)
        watch.mark()
        loss.backward()
        watch.mark()
        self.optimizer.step()
        self.optimizer.zero_grad()
        watch.mark()
        parts = dict(zip(STEP_PARTS, watch.seconds(), strict=True))
        return {**parts, "processor": time.process_time() - processor, "loss": float(loss.detach())}

    def infer(self) -> dict[str, float]:
        """Seconds of inference on one volume, with unmerged and with merged adapters."""
        image = torch.randn(self.image.shape[0], *(self.setting.volume or []), generator=self.draws)
        predictor = Predictor(self.forward, window=[self.setting.side] * 3, overlap=0.25,
                              batch_size=self.setting.batch, precision=self.setting.precision)  # fmt: skip
        times = {"unmerged": self._predict(predictor, image)}
        with merged(self.network):
            times["merged"] = self._predict(predictor, image)
        return times

    def finish(self) -> dict[str, int]:
        """Peak memory, trainable parameters, and bytes of the model file and of the adapters' part in it.

        There are two figures of memory: `peak_bytes` of `memory.peak_memory`, and `tensor_bytes`, the peak of all
        tensors in a step, which on a CPU excludes the libraries.
        """
        peak = peak_memory(self.device)
        states = [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        held = sum(t.nbytes for t in (*self.network.parameters(), *self.network.buffers(), *states))
        tensors = held + peak_of_tensors(self.step, self.device)
        trained = trainable_parameters(self.network)
        if not hasattr(self.network, "adapters"):  # PEFT's
            size = sum(p.nbytes for p in trained.values())
            adapters = sum(p.nbytes for name, p in trained.items() if "lora_" in name)
        else:
            with tempfile.TemporaryDirectory() as folder:
                save_model(self.network, Path(folder) / "model.safetensors")
                size = (Path(folder) / "model.safetensors").stat().st_size
            adapters = sum(t.nbytes for t in self.network.adapters.state_dict().values())
        numbers = sum(p.numel() for p in trained.values())
        return {"peak_bytes": peak, "tensor_bytes": tensors, "trainable": numbers, "file_bytes": size,
                "adapter_bytes": adapters}  # fmt: skip

    def _draw(self) -> tuple[Tensor, Tensor]:
        side = [self.setting.side] * 3
        return self.augmentation(self.image, self.label, self.spots, crop=side, mirror_pairs=(), g=self.draws)

    def _predict(self, predictor: Predictor, image: Tensor) -> float:
        watch = Stopwatch(self.device)
        predictor(image)
        watch.mark()
        return watch.seconds()[0]


def main() -> None:
    """Answer the commands of standard input until it ends; only answers reach standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task.pop("threads"))
    worker = Worker(Setting(**task.pop("setting")), **task)
    commands = {"ready": dict, "step": lambda: worker.turn(worker.step),
                "infer": lambda: worker.turn(worker.infer), "finish": worker.finish}
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), file=answers, flush=True)


if __name__ == "__main__":
    main()
