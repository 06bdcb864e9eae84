"""Benchmark runner of `scripts/benchmark.py`, from a configuration to a table. Nothing heavy is imported here.

Every contestant runs in a separate process, so that peak memory is its own. All take their steps in turn, round by
round, so that other load on the machine affects them alike. Ratios are formed within a round.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from tcurlora_seg.benchmark.setting import REFERENCES, STEP_PARTS, Setting, model_of, read_settings
from tcurlora_seg.config.paths import options
from tcurlora_seg.config.target import backbone_of_target
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import write_json

STEP = STEP_PARTS[1:]  # data are made beside the steps of a real training


def benchmark(config: DictConfig) -> dict[str, Any]:
    """Run a configuration of `scripts/benchmark.py`, print its table or JSON object, and write the files of `output`.

    Raises:
        UserError: an unknown contestant or setting, a contestant that fails.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    points = []
    for changed, common in variations(plain["contest"]["common"], plain["contest"]["vary"]):
        settings = read_settings(plain["contest"]["contestants"], common)
        points.append({"varied": changed, "contestants": compete(settings, plain)})
    result = {"machine": machine(plain), "baseline": plain["contest"]["baseline"], "points": points}
    if plain["output"] is not None:
        write_json(Path(plain["output"]) / "benchmark.json", result)
        if plain["contest"]["vary"]:
            from tcurlora_seg.benchmark.plot import plot_costs

            plot_costs(result, Path(plain["output"]) / "costs.png")
    if plain["json"]:
        print(json.dumps(result, indent=2))
    else:
        for point in points:
            print_table(point, plain["contest"]["baseline"])
    return result


def check_benchmark(config: DictConfig) -> None:
    """Check the contestants of a configuration.

    Raises:
        UserError: an unknown contestant or setting, or PEFT is needed and not installed.
    """
    contest: Any = OmegaConf.to_container(config.contest, resolve=True)
    names = set(options("adapter")) | set(REFERENCES)
    empty = [key for key, values in contest["vary"].items() if not values]
    if empty:
        raise UserError(f"contest.vary.{empty[0]}=[]: values are needed")
    for _, common in variations(contest["common"], contest["vary"]):
        settings = read_settings(contest["contestants"], common)
        for name, setting in settings.items():
            if setting.method not in names:
                listed = ", ".join(sorted(names))
                raise UserError(f"contest: {name} has the method '{setting.method}': choose from {listed}")
            model = model_of(setting, config.model)
            backbone_of_target(model["_target_"]).check(model, [setting.side] * 3)
            if setting.precision not in ("32-true", "bf16-mixed"):
                raise UserError(f"contest: {name} has precision={setting.precision}: choose 32-true or bf16-mixed")
    if contest["baseline"] not in settings:
        raise UserError(f"contest.baseline={contest['baseline']} is none of the contestants {', '.join(settings)}")
    for key, least in (("rounds", 1), ("warmup", 0), ("inference_rounds", 1), ("threads", 1)):
        if config[key] < least:
            raise UserError(f"{key}={config[key]}: at least {least} is needed")


def variations(
    common: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Variations of the common settings, one key at a time: pairs of the change and all resulting settings.

    Args:
        common: settings of all contestants.
        vary: values by key.
    """
    if not vary:
        yield {}, dict(common)
    for key, values in vary.items():
        for value in values:
            yield {key: value}, {**common, key: value}


def compete(settings: Mapping[str, Setting], options: Mapping[str, Any]) -> dict[str, Any]:
    """Run the steps of all contestants in turn; returns the measurements by contestant.

    Args:
        settings: of the contestants, by name.
        options: the whole configuration as a plain mapping.
    """
    baseline = options["contest"]["baseline"]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_Worker(name, setting, options)) for name, setting in settings.items()}
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // options["threads"])) as pool:  # a core for each
            list(pool.map(_Worker.start, workers.values()))
        order = list(settings)
        for name in order * options["warmup"]:
            workers[name].ask("step")
        steps, volumes = _rounds(workers, order, "step", options["rounds"]), {}
        timed = [name for name in order if settings[name].volume]
        if timed:
            volumes = _rounds(workers, timed, "infer", options["inference_rounds"])
        measured = {}
        for name, setting in settings.items():
            sums = [sum(step[part] for part in STEP) for step in steps[name]]
            record = {"setting": asdict(setting), "startup_seconds": workers[name].startup,
                      **workers[name].ask("finish"), "step_seconds": quartiles(sums), "rounds": sums}  # fmt: skip
            record |= {f"{part}_seconds": quartiles([step[part] for step in steps[name]]) for part in STEP_PARTS}
            for key, keys in (("ratio", STEP), ("processor_ratio", ("processor",))):
                pairs = zip(steps[name], steps[baseline], strict=True)
                record[key] = quartiles([sum(a[k] for k in keys) / sum(b[k] for k in keys) for a, b in pairs])
            for kind in ("unmerged", "merged"):
                record[f"{kind}_seconds"] = quartiles([v[kind] for v in volumes[name]]) if name in volumes else None
            measured[name] = record
    for record in measured.values():
        record["memory_ratio"] = record["peak_bytes"] / measured[baseline]["peak_bytes"]
        record["tensor_ratio"] = record["tensor_bytes"] / measured[baseline]["tensor_bytes"]
    return measured


def _rounds(workers: Mapping[str, _Worker], names: Sequence[str], command: str, rounds: int) -> dict[str, list[Any]]:
    """Send all workers one command in turn, with another one first in each round."""
    answers: dict[str, list[Any]] = {name: [] for name in names}
    for r in range(rounds):
        for name in [*names[r % len(names) :], *names[: r % len(names)]]:
            answers[name].append(workers[name].ask(command))
        print(f"{command} {r + 1}/{rounds}", end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
    return answers


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median, lower and upper quartile."""
    if len(values) < 2:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


class _Worker:
    """Process of `tcurlora_seg.benchmark.worker`, which ends with the context."""

    def __init__(self, name: str, setting: Setting, options: Mapping[str, Any]) -> None:
        task = {"setting": asdict(setting), "model": model_of(setting, options["model"]),
                **{k: options[k] for k in ("optimizer", "device", "seed", "threads")}}  # fmt: skip
        self.command = [sys.executable, "-m", "tcurlora_seg.benchmark.worker", json.dumps(task)]
        self.name, self.startup = name, 0.0
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            with suppress(BrokenPipeError), self.process:  # a command that a dead process never read
                self.process.kill()
        self.errors.close()

    def start(self) -> None:
        """Start the process and wait until its network is built."""
        begun, pipe = time.perf_counter(), subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)
        self.ask("ready")
        self.startup = time.perf_counter() - begun

    def ask(self, command: str) -> Any:
        """The answer to one command.

        Raises:
            UserError: the process has ended; the text says why.
        """
        assert self.process and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.process.wait()
            self.errors.seek(0)
            lines = [line for line in self.errors.read().splitlines() if line.strip()]
            reason = "it ran out of memory" if code == -9 else lines[-1] if lines else f"exit code {code}"
            raise UserError(f"contestant {self.name} stopped at '{command}': {reason}")
        return json.loads(answer)


def machine(options: Mapping[str, Any]) -> dict[str, Any]:
    """Description of the machine and of package versions."""
    return {
        "processor": _processor(), "system": platform.platform(), "threads": options["threads"],
        "device": options["device"], "torch": version("torch"), "monai": version("monai"),
    }  # fmt: skip


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def print_table(point: Mapping[str, Any], baseline: str) -> None:
    """Print a table of measurements.

    Args:
        point: the varied settings and the measurements by contestant.
        baseline: name of the contestant that ratios refer to.
    """
    varied = ", ".join(f"{key} {value}" for key, value in point["varied"].items())
    heads = ["contestant", "step, s", f"/ {baseline}", "processor", "forward", "backward", "optimiser", "data"]
    heads += ["peak, GB", "/", "tensors", "/", "trainable", "file, kB", "start, s", "volume, s", "merged"]
    caption = (
        "medians; in brackets the quartiles of the paired ratios. processor: the ratio of processor times, in which "
        "waiting for a busy machine does not count; peak: memory of the process on a CPU; tensors: of PyTorch's tensors"
    )
    table = Table(*heads, title=varied or None, caption=caption)
    for name, record in point["contestants"].items():
        ratios = [f"{r['median']:.3f} ({r['low']:.3f} to {r['high']:.3f})" for r in
                  (record["ratio"], record["processor_ratio"])]  # fmt: skip
        volumes = [f"{record[k]['median']:.2f}" if record[k] else "" for k in ("unmerged_seconds", "merged_seconds")]
        table.add_row(
            name, f"{record['step_seconds']['median']:.3f}",
            *ratios,
            *(f"{record[f'{part}_seconds']['median']:.3f}" for part in ("forward", "backward", "optimiser", "data")),
            f"{record['peak_bytes'] / 1e9:.2f}", f"{record['memory_ratio']:.2f}",
            f"{record['tensor_bytes'] / 1e9:.2f}", f"{record['tensor_ratio']:.2f}", f"{record['trainable']:,}",
            f"{record['file_bytes'] / 1e3:,.0f}", f"{record['startup_seconds']:.1f}", *volumes,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 200).print(table)
