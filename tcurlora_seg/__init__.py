"""Parameter-efficient fine-tuning of pre-trained 3-D transformers for segmentation.

    import tcurlora_seg
    model = tcurlora_seg.adapt(unetr, method="tcurlora", rank=8)   # in place; train model as usual
    plain = tcurlora_seg.merge(model)                              # a plain MONAI UNETR again

Several fine-tuned models share one base in memory:

    switch = tcurlora_seg.Switch(unetr)
    switch.add("hippocampus", "run_a/model.safetensors")
    switch.use("hippocampus")                                      # in place, in milliseconds

Names are imported on first use, since importing torch and monai takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "adapt": "tcurlora_seg.models.injection",
    "describe": "tcurlora_seg.models.foreign",
    "merge": "tcurlora_seg.models.injection",
    "merged": "tcurlora_seg.models.injection",
    "load_pretrained": "tcurlora_seg.models.pretrained",
    "Switch": "tcurlora_seg.models.switching",
    "penalty": "tcurlora_seg.adapters.base",
    "after_step": "tcurlora_seg.adapters.base",
    "load_peft": "tcurlora_seg.models.peft_files",
    "save_peft": "tcurlora_seg.models.peft_files",
    "save_model": "tcurlora_seg.models.checkpoint",
    "load_model": "tcurlora_seg.models.checkpoint",
    "load_run": "tcurlora_seg.inference.run",
    "predict": "tcurlora_seg.inference.run",
}
__all__ = ["__version__", *_PUBLIC]


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tcurlora_seg' has no attribute {name!r}")
