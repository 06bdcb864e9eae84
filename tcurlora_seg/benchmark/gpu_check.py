"""GPU check of `scripts/gpu_check.py`: tests, benchmarks and trainings on a GPU. Nothing heavy is imported here.

Each part runs commands of this repository in separate processes. A failed part is recorded with its message, and the
others go on. It needs a checkout, since the tests are one part.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tcurlora_seg.benchmark.contest import quartiles
from tcurlora_seg.benchmark.gpu_report import PAPER, Rows, describe_machine, report, targets
from tcurlora_seg.config.messages import explain
from tcurlora_seg.config.paths import PACKAGE
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json, write_json, write_text

CHECKOUT = PACKAGE.parent
_TINY = ("model=unetr_tiny", "rounds=2", "warmup=0", "inference_rounds=1", "contest.common.side=32",
         "contest.common.batch=1")  # fmt: skip
_TINY_RANKS = ("contest.contestants.lora.rank=4", "contest.contestants.peft_lora.rank=4")
_TINY_VOLUMES = ("contest.common.volume=[32,40,36]", "contest.contestants.cropped.volume=[32,32,36]")


@dataclass(frozen=True)
class Job:
    """Settings of all parts.

    Attributes:
        device: cuda, or cpu with the tiny network.
        output: folder of results and logs.
        root: the folder of the Decathlon's tasks, or None.
        limit: time limit of one command in seconds.
    """

    device: str
    output: Path
    root: Path | None
    limit: float

    @property
    def tiny(self) -> bool:
        return self.device == "cpu"

    def run(self, name: str, *command: str, **environment: str) -> str:
        """Run a Python command; returns its output, which is also written to `<output>/logs/<name>.txt`.

        Args:
            name: of the log.
            command: arguments of Python.
            environment: further environment variables.

        Raises:
            UserError: it failed, or took too long.
        """
        log = self.output / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
        with log.open("w") as file:
            try:
                done = subprocess.run([sys.executable, *command], cwd=CHECKOUT, stdout=file, stderr=subprocess.STDOUT,
                                      env=environment, timeout=self.limit)  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise UserError(f"{name} took more than {self.limit:g} s, see {log}") from error
        said = log.read_text(encoding="utf-8")
        if done.returncode:
            lines = [line for line in said.splitlines() if line.strip()] or ["it printed nothing"]
            raise UserError(f"{lines[-1].strip()} (exit code {done.returncode}, {log})")
        return said

    def contest(self, name: str, *arguments: str) -> dict[str, Any]:
        """Measurements by contestant of the benchmark with `arguments`, run under `name`."""
        folder = self.output / name
        self.run(name, "scripts/benchmark.py", f"device={self.device}", f"output={folder}", *arguments)
        contestants: dict[str, Any] = read_json(folder / "benchmark.json")["points"][0]["contestants"]
        return contestants

    def train(self, name: str, *arguments: str) -> dict[str, Any]:
        """Metrics of the training run with `arguments`, under `name`; `expected` is its cost estimate as printed."""
        folder = self.output / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        said = self.run(
            name, "scripts/train.py", f"output={folder}", f"outputs={self.output / 'runs'}", "logger=none",
            f"trainer.accelerator={'cpu' if self.tiny else 'gpu'}", *arguments,
        )  # fmt: skip
        (expected,) = re.findall(r"^expected: (.*)$", said, re.MULTILINE)
        return {**read_json(folder / "metrics.json"), "expected": expected}


class Skipped(Exception):
    """Signal of a part whose data are missing."""


def gpu_check(config: DictConfig) -> None:
    """Run the parts of a configuration of `scripts/gpu_check.py` and write `gpu_check.json` and `gpu_check.md`.

    Raises:
        UserError: a part failed.
    """
    root = None if config.root is None else Path(config.root).absolute()
    job = Job(config.device, Path(config.output).absolute(), root, config.limit)
    machine, failed = describe_machine(config.device), []
    parts: dict[str, dict[str, Any]] = {}
    for name in config.parts:
        begun, rows, outcome = time.perf_counter(), {}, "done"
        try:
            rows = CHECKS[name](job)
        except Skipped as reason:
            outcome = f"skipped: {reason}"
        except Exception as error:  # of whatever kind: the other parts are worth their time
            outcome = f"failed: {explain(error)}"
            failed.append(name)
        parts[name] = {"outcome": outcome, "seconds": time.perf_counter() - begun, "rows": rows}
        print(f"{name}: {outcome}, {parts[name]['seconds']:.0f} s", flush=True)
        result = {"machine": machine, "targets": targets(parts), "parts": parts}
        write_json(job.output / "gpu_check.json", result)  # at once: the next part may take the machine with it
        write_text(job.output / "gpu_check.md", report(result))
    print((job.output / "gpu_check.md").read_text(encoding="utf-8"))
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; what they printed is in {job.output / 'logs'}")


def check_parts(config: DictConfig) -> None:
    """Check device, names of the parts, and the data folder.

    Raises:
        UserError: an unknown device or part, or no such folder.
    """
    if config.device not in ("cuda", "cpu"):
        raise UserError(f"device={config.device}: choose cuda (the first one; CUDA_VISIBLE_DEVICES=1 hides it) or cpu")
    unknown = [name for name in config.parts if name not in CHECKS]
    if unknown:
        raise UserError(f"parts: there is no '{unknown[0]}'; choose from {', '.join(CHECKS)}")
    if config.root is not None and not (Path(config.root) / "Task04_Hippocampus").is_dir():
        raise UserError(f"root={config.root} has no folder Task04_Hippocampus")
    if not (CHECKOUT / "tests").is_dir():
        raise UserError("gpu_check needs a checkout of the repository: it runs its tests")


def _tests(job: Job) -> Rows:
    said = job.run("tests", "-m", "pytest", "-m", "gpu", "tests/test_gpu.py", TCURLORA_SEG_TEST_DEVICE=job.device)
    return {"pytest -m gpu": {"result": said.strip().splitlines()[-1]}}


def _steps(job: Job, precision: str) -> Rows:
    """The methods against each other, with ratios paired by round."""
    measured = job.contest(
        f"steps_{precision}", "contest=paper", f"contest.common.precision={precision}", "model.dropout_rate=0.1",
        *((*_TINY, *_TINY_RANKS) if job.tiny else ()),
    )  # fmt: skip
    full, memory = measured["full"], "tensor_bytes" if job.tiny else "peak_bytes"  # a process holds libraries, too
    return {
        f"{name}, {precision}": {
            "step, s": record["step_seconds"]["median"],
            **{f"/ {other}": _ratio(record, measured[other]) for other in ("full", "floor", "lora", "peft_lora")},
            "GB": record[memory] / 1e9, "GB / full": record[memory] / full[memory],
            "trainable": record["trainable"], **PAPER.get(name, {}),
        }
        for name, record in measured.items()
    }  # fmt: skip


def _ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    return quartiles([a / b for a, b in zip(ours["rounds"], theirs["rounds"], strict=True)])


def _inference(job: Job) -> Rows:
    tiny = (*_TINY, *_TINY_VOLUMES) if job.tiny else ()
    measured = job.contest("inference", "contest=inference", *tiny, "rounds=1")
    seconds = {f"{name}, {kind}": record[f"{kind}_seconds"]["median"]
               for name, record in measured.items() for kind in ("unmerged", "merged")}  # fmt: skip
    return {name: {"s": s, "times faster than MONAI": seconds["monai, merged"] / s} for name, s in seconds.items()}


def _speed(job: Job) -> Rows:
    """Speed-up by compilation and by the other options of a step, in bf16."""
    measured = job.contest(
        "speed", "contest=speed", "contest.common.side=128", "contest.common.batch=4", "~contest.contestants.bf16",
        "contest.common.precision=bf16-mixed", "~contest.contestants.bf16_monai", *(_TINY if job.tiny else ()),
    )  # fmt: skip
    return {name: {"step, s": record["step_seconds"]["median"], "/ MONAI's own step": record["ratio"],
                   "peak, GB": record["peak_bytes"] / 1e9}
            for name, record in measured.items()}  # fmt: skip


def _agreement(job: Job) -> Rows:
    said = job.run("agreement", "-m", "tcurlora_seg.benchmark.agreement", job.device)
    rows: Rows = json.loads(said.splitlines()[-1])
    return rows


def _loader(job: Job) -> Rows:
    """The main job on a simulated cohort of 1 mm, with more workers until the device hardly waits for them."""
    data = job.output / "data" / ("lpba40_tiny" if job.tiny else "lpba40")
    if not (data / "manifest.json").is_file():
        job.run("simulate", "scripts/prepare_data.py", "dataset=lpba40", f"dataset.root={data}", "simulate=6",
                f"spacing={8 if job.tiny else 1}")  # fmt: skip
    settings = ["experiment=paper_lpba40", f"dataset.root={data}", "pretrained=random", "test=null",
                "trainer.precision=bf16-mixed", f"trainer.max_steps={4 if job.tiny else 60}"]  # fmt: skip
    tiny = ["model=unetr_tiny", "window=[32,32,32]", "data.batch_size=1", "data.steps_per_epoch=2"]
    settings += tiny if job.tiny else []
    rows = {}
    for workers in (0, 2) if job.tiny else (0, 2, 4, 8):
        metrics = job.train(f"loader_{workers}", *settings, f"data.num_workers={workers}")
        rows[f"{workers} workers"] = {
            "waiting for data": metrics["data_wait"], "step, s": metrics["step_seconds"],
            "peak, GB": metrics["peak_memory_bytes"] / 1e9, "expected beforehand": metrics["expected"],
        }  # fmt: skip
        if metrics["data_wait"] < 0.05:
            break
    return rows


def _real(job: Job) -> Rows:
    """Training on five real cases, test on twenty: adapters against full fine-tuning."""
    if job.root is None:
        raise Skipped("no real data: root=DIR names the folder that holds Task04_Hippocampus")
    settings = ["dataset=decathlon", f"dataset.root={job.root}", "split.scheme=shots", "split.test=20"]
    settings += ["model=unetr_tiny", "pretrained=random", "trainer.max_steps=2"] if job.tiny else []
    rows = {}
    for adapter in ("tcurlora", "full"):
        metrics = job.train(f"real_{adapter}", *settings, f"adapter={adapter}")
        scores = metrics["scores"]
        rows[adapter] = {
            "mean Dice": scores["mean_dice"], **{name: s["dice"]["mean"] for name, s in scores["structures"].items()},
            "test cases": scores["cases"], "steps": metrics["steps"], "step, s": metrics["step_seconds"],
        }  # fmt: skip
    return rows


CHECKS: dict[str, Callable[[Job], Rows]] = {
    "tests": _tests, "bf16": partial(_steps, precision="bf16-mixed"), "float32": partial(_steps, precision="32-true"),
    "inference": _inference, "speed": _speed, "agreement": _agreement, "loader": _loader, "real": _real,
}  # fmt: skip
