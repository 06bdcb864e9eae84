from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tcurlora_seg.errors import UserError
from tcurlora_seg.models.backbone import speed_up
from tcurlora_seg.models.injection import adapt
from tcurlora_seg.training.estimate import describe_step, estimate_step, remedies

SHAPE = (2, 1, 32, 32, 32)


def test_the_estimate_tells_what_checkpointing_bf16_and_freezing_save(build):
    sizes = {}
    for name, method, checkpointing, bf16 in [
        ("full", "full", False, False), ("frozen", "decoder_only", False, False),
        ("checkpointed", "full", True, False), ("bf16", "full", False, True),
    ]:  # fmt: skip
        network = speed_up(adapt(build(), method), checkpointing=checkpointing)
        sizes[name], _ = estimate_step(network, SHAPE, bf16=bf16)
    assert max(sizes["frozen"], sizes["checkpointed"], sizes["bf16"]) < sizes["full"]
    assert sizes["checkpointed"] < 0.7 * sizes["full"]


def test_operations_are_those_of_a_real_forward_pass_and_more_than_twice_that_with_the_backward_pass(build):
    network = adapt(build(), "tcurlora", rank=3).train()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(*SHAPE))
    forward = counter.get_total_flops()
    _, operations = estimate_step(network, SHAPE, bf16=False)
    assert 2 * forward < operations < 2.5 * forward


def test_estimating_leaves_the_network_as_it_was(build):
    network = adapt(build(), "tcurlora", rank=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    estimate_step(network, SHAPE, bf16=False)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in network.parameters())


def test_a_step_that_does_not_fit_is_told_with_what_helps(build, monkeypatch):
    monkeypatch.setattr("tcurlora_seg.training.estimate.free_memory", lambda device: 1)
    line = describe_step(build(), SHAPE, torch.device("cpu"), bf16=False, steps=10)
    assert "10 steps" in line and "speed.checkpointing=true" in line


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("can't allocate memory")])
def test_running_out_of_memory_names_the_remedies(error):
    with pytest.raises(UserError, match=r"data.batch_size.*speed.checkpointing=true.*trainer.precision"), remedies():
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), remedies():
        raise RuntimeError("shapes")
