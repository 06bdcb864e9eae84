"""Report of `gpu_check` in Markdown: measurements and targets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

Rows = dict[str, dict[str, Any]]
"""Table: rows by name, each with its cells by column. A cell is a word, a number, or a median with its quartiles."""

PAPER = {  # its text: 684 ms and 18.28 GB for full, 562 and 15.90 for LoRA, 495 and 11.72 for tCURLoRA
    "full": {"paper: / full": 1.0, "paper: / lora": 1.22, "paper: GB / full": 1.0},
    "lora": {"paper: / full": 0.82, "paper: / lora": 1.0, "paper: GB / full": 0.87},
    "tcurlora": {"paper: / full": 0.72, "paper: / lora": 0.88, "paper: GB / full": 0.64},
}
_TARGETS = [  # part, row, column, the largest or smallest number that is good enough
    *(
        wanted
        for part, precision in (("bf16", "bf16-mixed"), ("float32", "32-true"))
        for wanted in (
            (part, f"tcurlora_by_role, {precision}", "/ floor", "<=", 1.05),
            (part, f"tcurlora_by_role, {precision}", "/ peft_lora", "<=", 1.0),
            (part, f"tcurlora, {precision}", "/ full", "<=", 0.70),
            (part, f"tcurlora, {precision}", "GB / full", "<=", 0.55),
        )
    ),
    ("inference", "cropped, merged", "times faster than MONAI", ">=", 3.0),
    ("agreement", "labels in bf16", "equal to MONAI's in float32", ">=", 0.999),
    ("agreement", "losses of ten steps", "largest relative difference", "<=", 0.01),
    ("loader", None, "waiting for data", "<=", 0.05),
]


def targets(parts: Mapping[str, Any]) -> Rows:
    """Table of the measured targets: target, measurement, and whether it is met."""
    found: Rows = {}
    for part, row, column, sign, wanted in _TARGETS:
        rows = parts.get(part, {"rows": {}})["rows"]
        if rows:
            name = row or list(rows)[-1]
            value = rows[name][column]
            value = value["median"] if isinstance(value, Mapping) else value
            met = value <= wanted if sign == "<=" else value >= wanted
            found[f"{name}: {column}"] = {"wanted": f"{sign} {wanted}", "found": value, "met": met}
    return found


def report(result: Mapping[str, Any]) -> str:
    """Markdown report: machine, targets, and a table for each part."""
    lines = ["# What a GPU shows", ""]
    if result["machine"]["gpu"] is None:
        lines += ["**There is no GPU**: these are the tiny network's figures on a processor and say nothing.", ""]
    lines += [", ".join(f"{key} {value}" for key, value in result["machine"].items()), ""]
    lines += ["Times are medians, ratios paired by round, with their quartiles in brackets.", ""]
    lines += _table("target", result["targets"])
    for name, part in result["parts"].items():
        lines += ["", f"## {name}: {part['outcome']}, {part['seconds']:.0f} s", "", *_table("", part["rows"])]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(corner: str, rows: Rows) -> list[str]:
    if not rows:
        return []
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[name, *(_cell(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    return [f"| {' | '.join(row)} |" for row in ([corner, *columns], ["---"] * (len(columns) + 1), *cells)]


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def describe_machine(device: str) -> dict[str, Any]:
    """Description of the machine and of package versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpus = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else ""
    packages = {package: version(package) for package in ("torch", "monai", "lightning", "peft") if find_spec(package)}
    return {"device": device, "gpu": gpus or None, "cores": os.cpu_count(),
            "python": sys.version.split()[0], **packages}  # fmt: skip
