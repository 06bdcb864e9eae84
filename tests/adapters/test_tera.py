"""TeRA against a slow, literal transcription of its definition, and what its file must give again."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg import adapt
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.adapters.tera import TeRA, digest_of, draw, split
from tcurlora_seg.errors import UserError


def make(out: int = 12, inner: int = 8, seed: int = 0, stirred: bool = True) -> tuple[TeRA, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, out, inner, generator=g, dtype=torch.float64)
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, out) for i in range(2)), (0, 1), ("a",), 1, out, inner)
    adapter = TeRA(stack, weights, scale=0.3, generator=g)
    if stirred:
        with torch.no_grad():
            for vector in adapter.diagonals:
                vector.copy_(torch.randn(vector.shape, generator=g, dtype=torch.float64))
    return adapter, weights


def test_delta_and_the_update_are_the_unfolded_tucker_product():
    adapter, weights = make()
    a, b, c, d, e, f = adapter.modes
    assert (a * b * c, d * e * f) == (12, 8)
    core, *factors = draw(int(adapter.seed), adapter.modes)
    scale = 0.3 * weights.square().mean().sqrt()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    for s in range(2):
        tensor = core
        for n, factor in enumerate(factors):
            diagonal = torch.diag(adapter.diagonals[n][s].detach())
            tensor = torch.tensordot(tensor, factor @ diagonal, dims=([0], [1]))  # the mode moves to the end
        expected = scale * tensor.reshape(12, 8)
        assert torch.allclose(adapter.delta(s, weights[s]), expected, rtol=0, atol=1e-12)
        (update,) = adapter.updates([s], x, [x @ weights[s].T], [weights[s]])
        assert torch.allclose(update, x @ expected.T, rtol=0, atol=1e-12)


def test_ones_change_a_weight_by_about_the_scale_and_by_full_rank():
    adapter, weights = make(48, 36, stirred=False)
    with torch.no_grad():
        adapter.diagonals[0].fill_(1.0)
    delta = adapter.delta(0, weights[0])
    assert 0.1 < delta.norm() / weights[0].norm() < 0.9
    assert torch.linalg.matrix_rank(delta) == 36


def test_only_the_first_vector_starts_at_zero():
    adapter, _ = make(stirred=False)
    assert [vector.unique().tolist() for vector in adapter.diagonals] == [[0.0]] + 5 * [[1.0]]


@pytest.mark.parametrize(
    ("size", "modes"), [(768, (8, 8, 12)), (3072, (12, 16, 16)), (144, (4, 6, 6)), (7, (1, 1, 7)), (1, (1, 1, 1))]
)
def test_a_side_is_split_as_evenly_as_it_goes(size, modes):
    assert split(size) == modes


def test_the_papers_network_trains_4416_numbers():
    square, up = sum(split(768)) * 2, sum(split(768)) + sum(split(3072))
    assert (square, up, 48 * square + 24 * up) == (56, 72, 4416)


def test_the_random_numbers_follow_the_seed_have_their_variances_and_never_change():
    core, *factors = draw(5, (8, 9, 10))
    assert torch.equal(core, draw(5, (8, 9, 10))[0]) and not torch.equal(core, draw(6, (8, 9, 10))[0])
    assert core.var().item() == pytest.approx(1, rel=0.1) and abs(core.mean()) < 0.1
    assert [f.var().item() * len(f) for f in factors] == pytest.approx([1, 1, 1], rel=0.35)
    assert bytes(digest_of(draw(5, (2, 3, 4))).tolist()).hex().startswith("7863fdc597ebf036")


def test_only_vectors_seed_and_hash_are_saved_and_they_give_the_same_update_again():
    adapter, weights = make()
    twin, _ = make(seed=1)
    assert set(adapter.state_dict()) == {*(f"diagonals.{n}" for n in range(6)), "seed", "size", "digest"}
    twin.load_state_dict(adapter.state_dict())
    twin.gather(weights)
    assert torch.equal(twin.delta(1, weights[1]), adapter.delta(1, weights[1]))


def test_a_seed_that_gives_other_numbers_is_refused():
    adapter, weights = make()
    adapter.seed += 1
    with pytest.raises(UserError, match=r"stored seed .* does not give the random tensors"):
        adapter.gather(weights)


def test_slices_of_a_stack_share_the_random_tensors_and_stacks_do_not(tiny):
    adapters = adapt(tiny, "tera", stacks={"q": {"roles": ["q", "k"]}, "o": {"roles": ["o"]}}).adapters
    assert adapters["q"].core.shape == (24, 24) and not torch.equal(adapters["q"].core, adapters["o"].core)
