"""Numerical agreement of a device with the processor, and of bfloat16 with float32, as one JSON object of rows.

    python -m tcurlora_seg.benchmark.agreement cuda
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

import torch
from hydra.utils import instantiate
from monai.inferers import sliding_window_inference
from omegaconf import OmegaConf

from tcurlora_seg.benchmark.setting import Setting
from tcurlora_seg.benchmark.worker import Worker
from tcurlora_seg.config.paths import options
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.inference.windows import Predictor, labels
from tcurlora_seg.models.precision import choose_device
from tcurlora_seg.models.pretrained import load_pretrained
from tcurlora_seg.models.speed import speed_up

STEPS = 10


def losses(device: str) -> list[float]:
    """Losses of ten training steps of tCURLoRA on the small network on `device`, in float32 without TF32."""
    torch.backends.cudnn.allow_tf32 = False
    setting = Setting(method="tcurlora", rank=8, side=64, batch=2, tf32=False)
    model, optimizer = (OmegaConf.to_container(OmegaConf.load(options(group)[name]))
                        for group, name in (("model", "unetr_small"), ("optimizer", "adam_paper")))  # fmt: skip
    worker = Worker(setting, model=model, optimizer=optimizer, device=device, seed=0)  # type: ignore[arg-type]
    return [worker.step()["loss"] for _ in range(STEPS)]


def compare_labels(device: torch.device, spacing: float) -> dict[str, float]:
    """Agreement of our label map in bfloat16 with MONAI's own inference in float32.

    The case is a simulated tumour, the network has the packaged base.

    Args:
        device: the device of both.
        spacing: voxel size of the case in mm.
    """
    with tempfile.TemporaryDirectory() as folder:
        simulate("brats2021", folder, subjects=1, spacing=spacing)
        dataset = instantiate(OmegaConf.load(options("dataset")["brats2021"]), root=folder)
        image = dataset.prepare(dataset.manifest().cases[0].id).image.as_tensor()
    network: Any = instantiate(OmegaConf.load(options("model")["unetr_small"]), feature_size=8)
    load_pretrained(network, "builtin_tumours")
    network.eval().to(device)
    window = [64, 64, 64]
    with torch.inference_mode():
        logits: Any = sliding_window_inference(image[None].to(device), window, 4, network, overlap=0.25)
        theirs = logits.argmax(1)[0].cpu()
    speed_up(network, half=True)
    ours = labels([Predictor(network, window=window, overlap=0.25, precision="bf16-mixed")], image)
    both = (ours > 0) & (theirs > 0)
    return {"equal to MONAI's in float32": float((ours == theirs).float().mean()),
            "Dice of the two": float(2 * both.sum() / ((ours > 0).sum() + (theirs > 0).sum()))}  # fmt: skip


def main() -> None:
    name = sys.argv[1]
    device = choose_device(name)
    here, there = losses("cpu"), losses(name)
    differences = [abs(a - b) / abs(a) for a, b in zip(here, there, strict=True)]
    print(json.dumps({
        "losses of ten steps": {"largest relative difference": max(differences), "the first step's": differences[0],
                                "on the processor": here[-1], "on the device": there[-1]},
        "labels in bf16": compare_labels(device, spacing=4.0 if device.type == "cpu" else 2.0),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
