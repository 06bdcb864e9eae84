"""Between two logged steps nothing is read from the device: each reading makes the processor wait for a GPU."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from programs import TINY, run_script
from torch.utils._python_dispatch import TorchDispatchMode

from tcurlora_seg.training.module import SegmentationModule

READING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}


class Reads(TorchDispatchMode):
    """Counts the readings of each training step, from its beginning to that of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.step = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.step and func._schema.name in READING and not _by_optimizer():
            self.counts[self.step] += 1
        return func(*args, **(kwargs or {}))


def _by_optimizer() -> bool:
    """Whether the reader is PyTorch's optimiser, whose counters of steps are never on a GPU."""
    frame: Any = sys._getframe(2)
    while "/torch/_" in frame.f_code.co_filename or "/torch/utils/" in frame.f_code.co_filename:
        frame = frame.f_back
    return "/torch/optim/" in frame.f_code.co_filename


@pytest.mark.parametrize("terminal", [False, True], ids=["lines", "progress bar"])
@pytest.mark.parametrize("adapter", ["tcurlora", "adalora"])
def test_only_logged_steps_read_from_the_device(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    reads = Reads()

    def begin(self: SegmentationModule, *_: object) -> None:
        reads.step = self.global_step + 1

    def end(self: SegmentationModule, *_: object) -> None:
        if self.global_step == self.trainer.max_steps:
            reads.step = 0  # what comes now belongs to the end of the epoch

    monkeypatch.setattr(SegmentationModule, "on_train_batch_start", begin)
    monkeypatch.setattr(SegmentationModule, "on_train_batch_end", end)
    with reads:
        code = run_script(
            "train", *TINY, f"adapter={adapter}", "adapter.rank=2", f"dataset.root={root}", f"outputs={tmp_path}",
            f"output={tmp_path / 'run'}", "logger=tensorboard", "test=null", "trainer.max_steps=8",
            "data.steps_per_epoch=8", "trainer.log_every_n_steps=4", "data.num_workers=1", monkeypatch=monkeypatch,
        )  # fmt: skip
    assert code == 0
    assert set(reads.counts) == {4, 8}
