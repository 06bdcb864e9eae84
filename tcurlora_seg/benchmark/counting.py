"""Trainable parameter counts of all methods, counted on the network itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from tcurlora_seg.config.paths import options
from tcurlora_seg.config.target import backbone_of_target
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import backbone_of, build_network
from tcurlora_seg.models.injection import adapt_from_config, read_adapter
from tcurlora_seg.models.trainable import trainable_parameters

PAPER = {  # rows of table 1 of arXiv 2501.02227v3: name, rank and trainable parameters in millions, as printed there
    "full": ("Full", None, 90.011),
    "linear": ("Linear", None, 59.348),
    "lora": ("LoRA", 32, 7.397),
    "bottleneck": ("Adapter", 32, 7.987),
    "ssf": ("SSF", None, 2.883),
    "lotr": ("LoTR", 2, 2.703),
    "pissa": ("PiSSA", 2, 2.974),
    "curlora": ("CURLoRA", 2, 2.679),
    "tcurlora": ("tCURLoRA", 8, 2.683),
}
_NOTE = """without out: the paper counts the decoder, but not the output layer. Only its row Full seems to hold every
parameter that the network uses, the output layer too: 93.011 M, of which 90.011 is likely a misprint."""


def count_methods(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameter counts, one row per file in `configs/adapter`: the paper's table in its order, then others by size.

    Ranks are the paper's, or each file's own where the paper has no row.

    Returns:
        Rows with `method`, `setting`, `trainable`, `without_out`: the count without the output layer, as the paper
        counts all methods but full fine-tuning, and `paper`: its figure in millions, for the network it used. Where a
        network is too small for a method both counts are None, and `setting` says why.

    Raises:
        UserError: the network cannot be built.
    """
    names, network = list(options("adapter")), _shapes(model)
    rows = {name: _count(model, network, name) for name in names}
    others = sorted((name for name in names if name not in PAPER), key=lambda name: -(rows[name]["trainable"] or 0))
    return [rows[name] for name in [*PAPER, *others]]


def print_counts(model: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the parameter counts as two tables."""
    rows = count_methods(model)
    if as_json:
        print(json.dumps({"rows": rows}, indent=2))
        return
    console = Console(width=max(Console().width, 110))
    for title, paper in (("the paper's table", True), ("other methods", False)):
        table = Table("method", "setting", "trainable", "without out", *(["paper, M"] if paper else []), title=title,
                      title_justify="left", caption=_NOTE if paper else None, caption_justify="left")  # fmt: skip
        for row in rows:
            if (row["method"] in PAPER) == paper:
                figure = "" if row["paper"] is None else f"{row['paper']:.3f}"
                counts = ["-" if row[key] is None else f"{row[key]:,}" for key in ("trainable", "without_out")]
                name = f"{PAPER[row['method']][0]} ({row['method']})" if paper else row["method"]
                table.add_row(name, row["setting"], *counts, *([figure] if paper else []))
        console.print(table)


def _count(model: Mapping[str, Any], network: nn.Module, method: str) -> dict[str, Any]:
    config, network = read_adapter(method), copy.deepcopy(network)
    _, papers_rank, figure = PAPER.get(method, (None, None, None))
    if config.rank is not None:
        config.rank = papers_rank or config.rank
    row: dict[str, Any] = {"method": method, "setting": None, "trainable": None, "without_out": None}
    row["paper"] = figure if _is_the_papers(model) else None
    try:
        with torch.device("meta"):
            adapt_from_config(network, config, seed=0)
    except UserError as error:
        return {**row, "setting": str(error)}
    trained = {name: parameter.numel() for name, parameter in trainable_parameters(network).items()}
    roles = " + ".join(" ".join(stack.roles) for stack in config.stacks.values())
    total = sum(trained.values())
    return {
        **row,
        "setting": f"r {config.rank}, {roles}" if config.rank else roles or " ".join(config.trainable),
        "trainable": total,
        "without_out": total - sum(trained.get(name, 0) for name in backbone_of(network).head),
    }


def _shapes(model: Mapping[str, Any]) -> nn.Module:
    """The network without its numbers, since shapes alone decide."""
    channels = {key: model[key] for key in ("in_channels", "out_channels")}
    build = partial(build_network, model, backbone_of_target(model["_target_"]).window(model), **channels)
    try:
        with torch.device("meta"):
            return build()
    except InstantiationException:  # MONAI's SwinUNETR reads a number while it is built
        return build().to("meta")


def _is_the_papers(model: Mapping[str, Any]) -> bool:
    """Whether the paper's figures hold for a network: UNETR base on 128^3 voxels, one channel, two classes."""
    paper = OmegaConf.load(options("model")["unetr"])
    return all(model.get(str(key)) == value for key, value in paper.items())
