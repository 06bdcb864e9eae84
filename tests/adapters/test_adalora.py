"""AdaLoRA against slow, literal transcriptions: the update, the penalty, the scores, the budget."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tcurlora_seg import adapt, load_model, save_model
from tcurlora_seg.adapters.adalora import AdaLoRA, budget
from tcurlora_seg.adapters.base import after_step, penalty
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.errors import UserError


def make(slices: int = 2, out: int = 9, inner: int = 8, seed: int = 0, **options) -> AdaLoRA:
    g = torch.Generator().manual_seed(seed)
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, out) for i in range(slices)), (0, 1), ("a",), 1, out, inner)
    return AdaLoRA(stack, torch.zeros(slices, out, inner).double(), generator=g, **{"rank": 2, **options})


def step_on_noise(adapters: list[AdaLoRA], g: torch.Generator) -> None:
    """Plain gradient steps on random gradients, as an optimiser would take them."""
    for adapter in adapters:
        for parameter in adapter.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
            parameter.data -= 0.1 * parameter.grad


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6, 2.0)])
def test_delta_is_alpha_over_r0_times_p_diag_e_q(alpha, scale):
    adapter = make(alpha=alpha)
    for s in range(2):
        nn.init.normal_(adapter.E[s])
        expected = torch.zeros(9, 8).double()
        for k in range(3):
            expected += scale * adapter.E[s][k].item() * torch.outer(adapter.P[s][:, k], adapter.Q[s][k]).detach()
        assert torch.allclose(adapter.delta(s, torch.zeros(9, 8)), expected, rtol=0, atol=1e-12)


def test_the_start_is_small_noise_around_a_zero_diagonal():
    adapter = make(slices=4, out=200, inner=300, rank=4)
    for p, e, q in zip(adapter.P, adapter.E, adapter.Q, strict=True):
        assert not e.any() and p.shape == (200, 6) and q.shape == (6, 300)
        assert p.std().item() == pytest.approx(0.02, rel=0.1) and q.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("rank", "start"), [(2, 3), (3, 5), (8, 8)])
def test_the_first_rank_is_one_and_a_half_times_the_last_where_the_weights_allow(rank, start):
    assert make(rank=rank).initial_rank == start


def test_the_penalty_is_the_mean_distance_from_orthonormal_over_all_stacks():
    adapters = [make(slices=2), make(slices=3, out=7, seed=1)]
    distances = []
    for adapter in adapters:
        for p, q in zip(adapter.P, adapter.Q, strict=True):
            for gram in (p.mT @ p, q @ q.mT):
                total = 0.0
                for i in range(3):
                    for j in range(3):
                        total += (gram[i, j].item() - float(i == j)) ** 2
                distances.append(total**0.5)
    assert penalty(adapters).item() == pytest.approx(0.5 * sum(distances) / len(distances), rel=1e-12)


def test_scores_are_smoothed_importance_times_smoothed_uncertainty():
    adapter, g = make(slices=1), torch.Generator().manual_seed(1)
    mean = {name: torch.zeros_like(getattr(adapter, name)[0]) for name in "PEQ"}
    spread = {name: torch.zeros_like(tensor) for name, tensor in mean.items()}
    for _ in range(3):
        step_on_noise([adapter], g)
        adapter.observe()
        for name in "PEQ":
            w = getattr(adapter, name)[0]
            now = (w * w.grad).abs().detach()
            mean[name] = 0.85 * mean[name] + 0.15 * now
            spread[name] = 0.85 * spread[name] + 0.15 * (now - mean[name]).abs()
    s = {name: mean[name] * spread[name] for name in "PEQ"}
    for k in range(3):
        rows = sum(s["P"][i, k] for i in range(9)) / 9 + sum(s["Q"][k, j] for j in range(8)) / 8
        assert adapter.scores()[0, k].item() == pytest.approx((s["E"][k] + rows).item(), rel=1e-10)


def test_the_budget_falls_by_a_cube_from_all_triples_to_the_mean_rank():
    adapters = [make(slices=2), make(slices=4, rank=4)]
    full, least = 2 * 3 + 4 * 6, 2 * 2 + 4 * 4
    assert budget(adapters, 0, 0, 100) == full and budget(adapters, 100, 0, 100) == least
    for step in (10, 35, 80):
        exact = least + (full - least) * (1 - step / 100) ** 3
        assert abs(budget(adapters, step, 0, 100) - exact) <= 1


def test_the_best_triples_of_all_stacks_together_survive_and_the_choice_is_final():
    adapters, g = [make(slices=2), make(slices=3, out=7, seed=1, rank=3)], torch.Generator().manual_seed(1)
    counts = []
    for step in range(1, 101):
        step_on_noise(adapters, g)
        scores_before = None
        if step == 50:
            twins = [make(slices=2), make(slices=3, out=7, seed=1, rank=3)]
            for twin, adapter in zip(twins, adapters, strict=True):
                twin.load_state_dict(adapter.state_dict())
                for mine, its in zip(twin.parameters(), adapter.parameters(), strict=True):
                    mine.grad = its.grad
                twin.observe()
            scores_before = torch.cat([twin.scores().flatten() for twin in twins])
        after_step(adapters, step, 100, 0.1)
        alive = torch.cat([(torch.stack(list(a.E)) != 0).flatten() for a in adapters])
        counts.append(int(alive.sum()))
        if scores_before is not None:
            ranking = sorted(range(len(alive)), key=lambda i: -scores_before[i].item())
            assert set(ranking[:13]) == set(alive.nonzero().flatten().tolist())
            chosen = alive
        if step > 50:
            assert torch.equal(alive, chosen)
    assert counts[:19] == [21] * 19 and counts[49:] == [13] * 51  # n r0 = 2 * 3 + 3 * 5, n r = 2 * 2 + 3 * 3
    assert counts[19] == 13 + round(2 * 0.75**3) + round(6 * 0.75**3)
    assert counts[20] == 21, "a dropped triple comes back"
    assert sum(sum(a.ranks()) for a in adapters) == 13 and [len(a.ranks()) for a in adapters] == [2, 3]


def test_a_reloaded_state_goes_on_to_the_same_bits():
    whole, g = make(), torch.Generator().manual_seed(1)
    for step in range(1, 41):
        if step == 23:
            other = make(seed=5)
            other.load_state_dict(whole.state_dict())
            state = g.get_state()
        step_on_noise([whole], g)
        after_step([whole], step, 60, 0.1)
    again = torch.Generator()
    again.set_state(state)
    for step in range(23, 41):
        step_on_noise([other], again)
        after_step([other], step, 60, 0.1)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_stacks_share_one_schedule():
    with pytest.raises(UserError, match="the same warmup, final and interval"):
        after_step([make(), make(final=0.25)], 1, 100, 0.1)


@pytest.mark.parametrize("total", [10, 100, 1000])
def test_the_last_cut_comes_on_time_whatever_the_rounding(total):
    adapter, g = make(final=0.9), torch.Generator().manual_seed(1)
    for step in range(1, total // 10 + 1):
        step_on_noise([adapter], g)
        after_step([adapter], step, total, 0.1)
        last = step == total // 10
        assert sum(adapter.ranks()) == 2 * (adapter.rank if last else adapter.initial_rank)


def test_a_model_file_holds_no_running_means(tiny, tmp_path):
    model = adapt(tiny, "adalora", rank=2)
    assert "importance_P" in model.adapters["up"].state_dict()
    save_model(model, tmp_path / "model.safetensors")
    names = {name for name in load_file(tmp_path / "model.safetensors") if name.startswith("adapters.up.")}
    assert names == {f"adapters.up.{n}.{i}" for n in "PEQ" for i in range(12)} | {"adapters.up.kept"}
    load_model(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 25}, "rank=25 "),
        ({"initial_rank": 1}, "initial_rank=1: choose rank=2 to 24"),
        ({"initial_rank": 25}, "initial_rank=25: choose rank=2 to 24"),
        ({"warmup": 0.6}, "warmup=0.6, final=0.5"),
        ({"final": -0.1}, "final=-0.1"),
        ({"interval": 0}, "interval=0"),
        ({"warmup": 0.0, "final": 1.0}, "final=1.0"),
        ({"orthogonality": -1.0}, "orthogonality=-1.0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(options, words, tiny):
    with pytest.raises(UserError) as caught:
        adapt(tiny, "adalora", **{"rank": 2, **options})
    assert words in str(caught.value)
