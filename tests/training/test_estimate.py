from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tcurlora_seg.errors import UserError
from tcurlora_seg.memory import peak_of_tensors
from tcurlora_seg.models.injection import adapt
from tcurlora_seg.models.speed import speed_up
from tcurlora_seg.training.estimate import describe_step, estimate_step, fitting_batch, remedies, speed

SHAPE = (2, 1, 64, 64, 64)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("method", "options"), [("full", {}), ("tcurlora", {}), ("tcurlora", {"checkpointing": True})]
)
def test_the_bytes_are_those_of_a_real_step(build, method, options):
    network = build(img_size=[64, 64, 64], feature_size=16)
    model = speed_up(adapt(network, method, **({} if method == "full" else {"rank": 3})), **options).train()
    held = sum(p.nbytes * (4 if p.requires_grad else 1) for p in model.parameters())  # with the optimiser's states
    estimate, _ = estimate_step(model, SHAPE, CPU, bf16=False)
    images = torch.randn(*SHAPE)
    real = held + peak_of_tensors(lambda: model(images).softmax(1).sum().backward(), torch.device("cpu"))
    assert estimate == pytest.approx(real, rel=0.1)


def test_bf16_takes_less(build):
    network = speed_up(build(img_size=[64, 64, 64]), half=True).train()
    assert estimate_step(network, SHAPE, CPU, bf16=True)[0] < 0.7 * estimate_step(network, SHAPE, CPU, bf16=False)[0]


def test_operations_are_those_of_a_real_step(build):
    network = adapt(build(img_size=[64, 64, 64]), "tcurlora", rank=3).train()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(*SHAPE)).sum().backward()
    assert estimate_step(network, SHAPE, CPU, bf16=False)[1] == counter.get_total_flops()


def test_estimating_leaves_the_network_as_it_was(build):
    network = adapt(build(img_size=[64, 64, 64]), "tcurlora", rank=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    estimate_step(network, SHAPE, CPU, bf16=False)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in network.parameters())


def test_a_step_that_does_not_fit_is_told_with_what_helps(build, monkeypatch):
    monkeypatch.setattr("tcurlora_seg.training.estimate.free_memory", lambda device: 1)
    line = describe_step(build(img_size=[64, 64, 64]), SHAPE, torch.device("cpu"), bf16=False, steps=10)
    assert "10 steps" in line and "speed.checkpointing=true" in line


def test_two_windows_a_step_or_one_where_two_do_not_fit(build, monkeypatch):
    network = build(img_size=[64, 64, 64])
    two, one = (estimate_step(network, (n, *SHAPE[1:]), CPU, bf16=False)[0] for n in (2, 1))
    assert one < two
    for free, expected in ((two, 2), (two - 1, 1), (None, 2)):
        monkeypatch.setattr("tcurlora_seg.training.estimate.free_memory", lambda device, free=free: free)
        assert fitting_batch(network, SHAPE[1:], CPU, bf16=False) == expected
        assert fitting_batch(network, SHAPE[1:], CPU, bf16=False, processes=2) == 2


def test_a_network_that_cannot_be_estimated_stops_no_training(tiny):
    tiny.register_forward_pre_hook(lambda _, inputs: bool(inputs[0].sum() > 0))
    assert "no estimate" in describe_step(tiny, (1, 1, 32, 32, 32), CPU, bf16=False, steps=10)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("can't allocate memory")])
def test_running_out_of_memory_names_the_remedies(error):
    with pytest.raises(UserError, match=r"data.batch_size.*speed.checkpointing=true.*trainer.precision"), remedies():
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), remedies():
        raise RuntimeError("shapes")


def test_the_speed_is_that_of_the_last_and_longest_measurement(monkeypatch):
    """The first ones are slow: libraries are loaded and clocks go up."""
    seconds = iter([0.08, 0.07, 0.07, 0.12])
    monkeypatch.setattr("tcurlora_seg.training.estimate.Stopwatch.seconds", lambda self: [next(seconds)])
    random = torch.get_rng_state()
    assert speed(CPU, bf16=False) == pytest.approx(16 * 3 * 2 * 32 * 32 * 3**3 * 2 * 32**3 / 0.12)
    assert torch.equal(torch.get_rng_state(), random)
