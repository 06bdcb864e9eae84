"""The counts of the paper's table, from the network itself."""

from __future__ import annotations

import time

import pytest
import torch
from omegaconf import OmegaConf

from tcurlora_seg import adapt
from tcurlora_seg.counting import count_methods
from tcurlora_seg.entry import config_folder
from tcurlora_seg.models.trainable import trainable_parameters


@pytest.fixture(scope="module")
def rows():
    return {row["method"]: row for row in count_methods(OmegaConf.load(config_folder() / "model" / "unetr.yaml"))}


@pytest.mark.parametrize(
    ("method", "trainable"),
    [
        ("full", 93_011_170),
        ("lora", 7_397_120 + 34),
        ("tcurlora", 2_683_136 + 34),
        ("tcurlora_by_role", 2_683_136 + 34),
        ("curlora", 2_678_720 + 34),
        ("decoder_only", 2_678_528 + 34),
    ],
)
def test_the_papers_network_trains_as_many_numbers_as_the_paper_counts(method, trainable, rows):
    assert rows[method]["trainable"] == trainable
    assert rows[method]["without_out"] == trainable - 34


def test_there_is_a_row_for_every_file_and_the_costliest_comes_first(rows):
    assert set(rows) == {path.stem for path in (config_folder() / "adapter").glob("*.yaml")}
    counts = [row["trainable"] for row in rows.values()]
    assert counts == sorted(counts, reverse=True)
    assert rows["lora"]["setting"] == "r 32, qkv + o + up + down"
    assert rows["decoder_only"]["setting"] == "decoder*.** out.**"


def test_a_rank_reaches_the_methods_that_have_one(rows):
    model = OmegaConf.load(config_folder() / "model" / "unetr.yaml")
    at_four = {row["method"]: row for row in count_methods(model, rank=4)}
    assert at_four["tcurlora"]["without_out"] == 2_678_528 + 72 * 16
    assert at_four["curlora"]["without_out"] == 2_678_528 + 48 * 16
    assert at_four["decoder_only"] == rows["decoder_only"]


def test_counting_makes_no_weights():
    started = time.process_time()
    count_methods(OmegaConf.load(config_folder() / "model" / "unetr.yaml"))
    assert time.process_time() - started < 5


def test_the_count_is_that_of_a_real_network(tiny):
    model = OmegaConf.load(config_folder() / "model" / "unetr_tiny.yaml")
    row = next(row for row in count_methods(model, rank=3) if row["method"] == "tcurlora")
    trained = trainable_parameters(adapt(tiny, "tcurlora", rank=3))
    assert row["trainable"] == sum(p.numel() for p in trained.values())
    assert all(isinstance(p, torch.nn.Parameter) for p in trained.values())
