"""Plot of cost against size: step time and memory for each setting that a benchmark varied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tcurlora_seg.files import atomic_path

_LABELS = {"rank": "rank", "side": "image side, voxels", "batch": "images in a step"}


def plot_costs(result: Mapping[str, Any], path: Path) -> None:
    """Plot a benchmark's `result` into the PNG file `path`; bars show the quartiles."""
    keys = list(dict.fromkeys(key for point in result["points"] for key in point["varied"]))
    names = list(result["points"][0]["contestants"])
    figure, axes = plt.subplots(2, len(keys), figsize=(4 * len(keys), 6), squeeze=False, layout="constrained")
    for (time, memory), key in zip(axes.T, keys, strict=True):
        points = [point for point in result["points"] if key in point["varied"]]
        sizes = [point["varied"][key] for point in points]
        for name in names:
            records = [point["contestants"][name] for point in points]
            seconds = [record["step_seconds"] for record in records]
            middle = [s["median"] for s in seconds]
            bars = [[s["median"] - s["low"] for s in seconds], [s["high"] - s["median"] for s in seconds]]
            time.errorbar(sizes, middle, yerr=bars, marker="o", markersize=3, capsize=2, label=name)
            memory.plot(sizes, [record["tensor_bytes"] / 1e9 for record in records], marker="o", markersize=3)
        for axis, label in ((time, "seconds a step"), (memory, "tensors, GB at most")):
            axis.set(xlabel=_LABELS.get(key, key), ylabel=label, xticks=sizes, ylim=(0, None))
            if key in ("rank", "batch"):
                axis.set_xscale("log", base=2)
                axis.set_xticks(sizes, [str(size) for size in sizes])
    axes[0, 0].legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
