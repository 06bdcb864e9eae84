"""The counts of the paper's table, from the network itself."""

from __future__ import annotations

import time

import pytest
import torch
from omegaconf import OmegaConf

from tcurlora_seg import adapt
from tcurlora_seg.benchmark.counting import count_methods
from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.models.trainable import trainable_parameters


@pytest.fixture(scope="module")
def rows():
    return {row["method"]: row for row in count_methods(OmegaConf.load(config_folder() / "model" / "unetr.yaml"))}


DECODER = 2_678_528
COUNTS = {  # without the 34 of the output layer
    "full": 93_011_170 - 34,
    "linear": 59_347_712,
    "lora": 7_397_120,
    "bottleneck": 7_986_944,
    "ssf": 2_882_816,
    "lotr": 2_703_296,
    "pissa": 2_973_632,
    "curlora": 2_678_720,
    "tcurlora": 2_683_136,
    "tcurlora_by_role": 2_683_136,
    "decoder_only": DECODER,
    "bitfit": DECODER + 12 * (768 + 3072 + 768 + 2 * 768) + 2 * 768,
    "layernorm": DECODER + 12 * 4 * 768 + 2 * 768,
    "dora": 7_397_120 + 82_944,
    "adalora": DECODER + 147_456 * 12 + 48 * 12,
    "arena": 7_397_120 + 48 * 32,
}


@pytest.mark.parametrize("method", COUNTS)
def test_the_papers_network_trains_as_many_numbers_as_the_closed_form(method, rows):
    assert rows[method]["without_out"] == COUNTS[method] and rows[method]["trainable"] == COUNTS[method] + 34


def test_every_figure_of_the_papers_table_is_met_to_three_decimals_but_full(rows):
    figures = {"linear": 59.348, "lora": 7.397, "bottleneck": 7.987, "ssf": 2.883, "lotr": 2.703, "pissa": 2.974,
               "curlora": 2.679, "tcurlora": 2.683}  # fmt: skip
    for method, figure in figures.items():
        assert rows[method]["paper"] == figure == round(rows[method]["without_out"] / 1e6, 3)
    assert rows["full"]["paper"] == 90.011 and round(rows["full"]["trainable"] / 1e6, 3) == 93.011
    assert [name for name, row in rows.items() if row["paper"]] == ["full", *figures]


def test_there_is_a_row_for_every_file_and_below_the_papers_the_costliest_comes_first(rows):
    assert set(rows) == {path.stem for path in (config_folder() / "adapter").glob("*.yaml")}
    counts = [row["trainable"] for row in rows.values() if row["paper"] is None]
    assert counts == sorted(counts, reverse=True) and len(counts) > 5
    assert rows["lora"]["setting"] == "r 32, qkv + o + up + down"
    assert rows["decoder_only"]["setting"] == "decoder"


def test_a_network_too_small_for_a_method_gets_a_row_that_says_so_and_no_figure_of_the_paper():
    tiny = OmegaConf.load(config_folder() / "model" / "unetr_tiny.yaml")
    rows = {row["method"]: row for row in count_methods(tiny)}
    assert rows["lora"]["trainable"] is None and "rank=32 is not possible" in rows["lora"]["setting"]
    assert rows["tcurlora"]["trainable"] and not any(row["paper"] for row in rows.values())


def test_a_network_that_cannot_be_built_without_its_numbers_is_counted_all_the_same():
    swin = OmegaConf.load(config_folder() / "model" / "swin_unetr_tiny.yaml")
    rows = {row["method"]: row["trainable"] for row in count_methods(swin)}
    assert rows["full"] > rows["tcurlora"] > rows["decoder_only"]


def test_counting_makes_no_weights():
    started = time.process_time()
    count_methods(OmegaConf.load(config_folder() / "model" / "unetr.yaml"))
    assert time.process_time() - started < 5


def test_the_count_is_that_of_a_real_network(tiny):
    model = OmegaConf.load(config_folder() / "model" / "unetr_tiny.yaml")
    row = next(row for row in count_methods(model) if row["method"] == "tcurlora")
    trained = trainable_parameters(adapt(tiny, "tcurlora", rank=8))
    assert row["trainable"] == sum(p.numel() for p in trained.values())
    assert all(isinstance(p, torch.nn.Parameter) for p in trained.values())
