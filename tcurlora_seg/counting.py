"""How many numbers each method trains, counted on the network itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table

from tcurlora_seg.entry import config_folder
from tcurlora_seg.models.injection import adapt_from_config, read_adapter
from tcurlora_seg.models.trainable import trainable_parameters
from tcurlora_seg.models.unetr import HEAD


def count_methods(model: Mapping[str, Any], rank: int | None = None) -> list[dict[str, Any]]:
    """One row per file in `configs/adapter`, the costliest first.

    Args:
        model: the model's configuration.
        rank: for all methods that have one; None for each file's own.

    Returns:
        Rows with `method`, `setting`, `trainable`, and `without_out`: the count without the output layer, as the
        paper counts all methods but full fine-tuning.
    """
    rows = [_count(model, path.stem, rank) for path in sorted((config_folder() / "adapter").glob("*.yaml"))]
    return sorted(rows, key=lambda row: -row["trainable"])


def print_counts(model: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the rows as a table, or as one JSON object."""
    rows = count_methods(model)
    if as_json:
        print(json.dumps({"rows": rows}, indent=2))
        return
    table = Table("method", "setting", "trainable", "without out", caption="without out: as the paper counts")
    for row in rows:
        table.add_row(row["method"], row["setting"], f"{row['trainable']:,}", f"{row['without_out']:,}")
    Console().print(table)


def _count(model: Mapping[str, Any], method: str, rank: int | None) -> dict[str, Any]:
    config = read_adapter(method)
    if rank is not None and config.rank is not None:
        config.rank = rank
    with torch.device("meta"):  # shapes alone decide
        network = instantiate(model)
        adapt_from_config(network, config, seed=0)
    trained = {name: parameter.numel() for name, parameter in trainable_parameters(network).items()}
    roles = " + ".join(" ".join(stack.roles) for stack in config.stacks.values())
    setting = f"r {config.rank}, {roles}" if config.rank else roles or " ".join(config.trainable)
    total = sum(trained.values())
    without_out = total - sum(trained.get(name, 0) for name in HEAD)
    return {"method": method, "setting": setting, "trainable": total, "without_out": without_out}
