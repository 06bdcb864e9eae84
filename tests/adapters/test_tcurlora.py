"""tCURLoRA against a slow, literal transcription of its definition, and the promises of its cheap form."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from tcurlora_seg import adapt
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.adapters.tchain import building_is_cheaper
from tcurlora_seg.adapters.tcurlora import TCURLoRA
from tcurlora_seg.adapters.tproduct import tproduct
from tcurlora_seg.errors import UserError
from tcurlora_seg.models.injection import adapt_from_config, read_adapter
from tcurlora_seg.models.stacking import stacked_weights


def stack_of(slices: int, out: int, inner: int) -> Stack:
    slots = tuple(Slot(i, "a", f"layer{i}", 0, out) for i in range(slices))
    return Stack(slots, tuple(range(slices)), ("a",), 1, out, inner)


def make(slices: int, out: int = 9, inner: int = 7, rank: int = 3, seed: int = 0, **options) -> tuple:
    """An adapter on random weights with a random core, and the weights."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.randn(slices, out, inner, generator=g, dtype=torch.float64)
    adapter = TCURLoRA(stack_of(slices, out, inner), weights, rank=rank, generator=g, **options)
    with torch.no_grad():
        adapter.core.copy_(torch.randn(slices, rank, rank, generator=g, dtype=torch.float64))
    return adapter, weights


def test_the_seed_reaches_a_rule_that_draws():
    weights = torch.randn(3, 40, 30)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    drawn = [TCURLoRA(stack_of(*weights.shape), weights, rank=5, selection="uniform", generator=g) for g in generators]
    a, again, other = (adapter.columns.tolist() for adapter in drawn)
    assert a == again != other


@pytest.mark.parametrize("slices", [1, 2, 3, 5, 8])
def test_delta_is_the_papers_definition(slices):
    """Every step written out: scores over the Fourier slices, C and R cut out, two t-products as double sums."""
    adapter, weights = make(slices)
    spectrum = torch.fft.fft(weights, dim=0)
    alpha = [sum(spectrum[k, :, j].norm().item() for k in range(slices)) for j in range(7)]
    J = sorted(range(7), key=lambda j: -alpha[j])[:3]
    beta = [sum(spectrum[k, i, J].norm().item() for k in range(slices)) for i in range(9)]
    I = sorted(range(9), key=lambda i: -beta[i])[:3]  # noqa: E741
    C, U, R = weights[:, :, J], adapter.core.detach(), weights[:, I, :]
    for i in range(slices):
        expected = torch.zeros(9, 7, dtype=torch.float64)
        for j in range(slices):
            for k in range(slices):
                for m in range(slices):
                    if (j + k + m) % slices == i:
                        expected += C[j] @ U[k] @ R[m]
        assert (adapter.delta(i, weights[i]) - expected).norm() / expected.norm() < 1e-12


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("members", [[0], [0, 1, 2], [2, 0]])
def test_the_factored_form_equals_delta_for_even_and_odd_stacks(slices, members):
    adapter, weights = make(slices, out=40, inner=30, rank=2)
    indices = [i % slices for i in members]
    x = torch.randn(2, 3, 30, dtype=torch.float64)
    assert not building_is_cheaper(6, len(indices), 40, 30, slices, 2)
    ys = [x @ weights[i].T for i in indices]
    for index, update in zip(indices, adapter.updates(indices, x, ys, list(weights[indices])), strict=True):
        assert torch.allclose(update, x @ adapter.delta(index, weights[index]).T, rtol=0, atol=1e-10)


def test_slices_are_coupled_and_their_order_matters():
    adapter, weights = make(4)
    slice_wise = adapter.C[0] @ adapter.core[0] @ adapter.R[0]
    assert not torch.allclose(adapter.delta(0, weights[0]), slice_wise)
    before = adapter.delta(0, weights[0])
    with torch.no_grad():
        adapter.core[2] = 0
    assert not torch.allclose(adapter.delta(0, weights[0]), before)
    order = torch.tensor([0, 2, 1, 3])
    permuted = copy.deepcopy(adapter)
    with torch.no_grad():
        permuted.core.copy_(adapter.core[order])
    permuted.gather(weights[order])
    assert not torch.allclose(permuted.delta(0, weights[0]), adapter.delta(0, weights[0]))


def test_one_slices_update_has_rank_up_to_r_times_n():
    adapter, weights = make(4, out=20, inner=18, rank=2)
    assert torch.linalg.matrix_rank(adapter.delta(1, weights[1])) == 8


class _Shapes(TorchDispatchMode):
    """Records the shape of everything that is computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.seen.add(tuple(tensor.shape))
        return result


def test_a_step_makes_no_matrix_of_the_weights_size():
    adapter, weights = make(6, out=83, inner=71, rank=2)
    x = torch.randn(1, 5, 71, dtype=torch.float64, requires_grad=True)
    ys, rows = [x @ weights[3].T], [weights[3]]
    with _Shapes() as shapes:
        (update,) = adapter.updates([3], x, ys, rows)
        update.sum().backward()
    large = {shape for shape in shapes.seen if {83, 71} <= set(shape)}
    assert shapes.seen and not large


def test_the_backward_pass_keeps_r_n_numbers_per_token():
    adapter, weights = make(6, out=83, inner=71, rank=2)
    x = torch.randn(1, 501, 71, dtype=torch.float64, requires_grad=True)
    indices, ys, rows = [0, 1, 2], [x @ w.T for w in weights[:3]], list(weights[:3])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        adapter.updates(indices, x, ys, rows)
    per_token = [t.numel() / 501 for t in kept if 501 in t.shape]
    assert per_token == [6 * 2]


def test_gathering_again_follows_the_indices():
    adapter, weights = make(4)
    twin, _ = make(4, seed=5)
    twin.load_state_dict(adapter.state_dict())
    assert not torch.equal(twin.delta(1, weights[1]), adapter.delta(1, weights[1]))
    twin.gather(weights)
    assert torch.equal(twin.delta(1, weights[1]), adapter.delta(1, weights[1]))
    x = torch.randn(1, 2, 7, dtype=torch.float64)
    update = partial(TCURLoRA.updates, indices=[1], x=x, ys=[x @ weights[1].T], weights=[weights[1]])
    assert torch.equal(update(twin)[0], update(adapter)[0])


def test_only_core_and_indices_are_saved():
    adapter, _ = make(4)
    assert {name: tuple(t.shape) for name, t in adapter.state_dict().items()} == {
        "core": (4, 3, 3), "rows": (3,), "columns": (3,),
    }  # fmt: skip
    assert [name for name, _ in adapter.named_parameters()] == ["core"]


OPTIONS = [
    {"orthonormal": True}, {"train_factors": True}, {"orthonormal": True, "train_factors": True},
    {"selection": "inverse", "row_selection": "norm"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("slices", [1, 4, 5])
def test_every_option_keeps_the_definition_in_both_forms_and_its_gradients(options, slices):
    adapter, weights = make(slices, out=40, inner=30, **options)
    C, U, R = (t.detach() for t in (adapter.C, adapter.core, adapter.R))
    x = torch.randn(5, 30, dtype=torch.float64, requires_grad=True)
    indices = sorted({0, slices - 1})
    for i, update in zip(indices, adapter.updates(indices, x, [x] * 2, list(weights[indices])), strict=True):
        expected = sum(
            C[j] @ U[k] @ R[m]
            for j in range(slices) for k in range(slices) for m in range(slices) if (j + k + m) % slices == i
        )  # fmt: skip
        assert torch.allclose(adapter.delta(i, weights[i]), expected, rtol=0, atol=1e-10)
        assert torch.allclose(update, x @ expected.T, rtol=0, atol=1e-9)
        inputs, signs = [x, *adapter.parameters()], torch.randn_like(update)
        fast = torch.autograd.grad((update * signs).sum(), inputs, retain_graph=True)
        slow = torch.autograd.grad((x @ adapter.delta(i, weights[i]).T * signs).sum(), inputs)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-8) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_starts_at_nothing_trains_and_is_restored_from_its_file(options, tiny, image, stir, build):
    base = tiny(image)
    model = adapt(tiny, "tcurlora", rank=2, **options)
    assert torch.equal(model(image), base)
    logits = stir(model)(image)
    assert not torch.equal(logits, base)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.all() for p in model.adapters.parameters())
    twin = adapt(build().eval(), "tcurlora", rank=2, seed=1, **options)
    twin.load_state_dict(model.state_dict())
    for name, adapter in twin.adapters.items():
        adapter.gather(stacked_weights(twin, twin.stacks[name]))
    assert torch.equal(twin(image), logits)


def test_trained_factors_are_parameters_and_orthonormal_ones_are_stored():
    plain, orthonormal, trained = (make(4, **options)[0] for options in ({}, *OPTIONS[:2]))
    assert set(orthonormal.state_dict()) == {*plain.state_dict(), "C", "R"} == set(trained.state_dict())
    assert [name for name, _ in orthonormal.named_parameters()] == ["core"]
    assert sum(p.numel() for p in trained.parameters()) == 4 * 3 * 3 + 4 * 3 * (9 + 7)


@pytest.mark.parametrize("slices", [1, 2, 5, 6])
def test_orthonormal_factors_make_the_stacks_update_as_large_as_the_core_and_span_the_same(slices):
    adapter, weights = make(slices, orthonormal=True)
    eye = torch.zeros(slices, 3, 3, dtype=torch.float64)
    eye[0] = torch.eye(3)
    turned = {name: torch.cat([t[:1], t[1:].flip(0)]).mT for name, t in (("C", adapter.C), ("R", adapter.R))}
    assert torch.allclose(tproduct(turned["C"], adapter.C), eye, rtol=0, atol=1e-10)
    assert torch.allclose(tproduct(adapter.R, turned["R"]), eye, rtol=0, atol=1e-10)
    deltas = torch.stack([adapter.delta(i, weights[i]) for i in range(slices)])
    assert deltas.norm().item() == pytest.approx(adapter.core.norm().item())
    columns = weights[:, :, adapter.columns]
    assert torch.allclose(tproduct(adapter.C, tproduct(turned["C"], columns)), columns, rtol=0, atol=1e-10)


def test_the_rank_is_the_smallest_that_holds_the_energy():
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(5, 9, 7, generator=g, dtype=torch.float64)
    squares = torch.linalg.svdvals(torch.fft.fft(weights, dim=0)).square().sum(0)
    held = squares.cumsum(0) / squares.sum()
    stack = Stack(tuple(Slot(i, "a", f"layer{i}", 0, 9) for i in range(5)), tuple(range(5)), ("a",), 1, 9, 7)
    for share in (0.01, 0.3, 0.5, 0.9, 1.0):
        adapter = TCURLoRA(stack, weights, rank=None, energy=share, generator=g)
        rank = adapter.core.shape[1]
        assert adapter.ranks() == 5 * [rank] and TCURLoRA(stack, weights, rank=rank, generator=g).ranks() is None
        assert held[rank - 1] >= share - 1e-12 and (rank == 1 or held[rank - 2] < share)


def test_a_complex_core_for_every_frequency_reaches_the_same_updates_and_no_others():
    """Why it is no option: the inverse FFT of any such core is a real core with the very same update."""
    adapter, weights = make(6)
    complex_core = torch.randn(4, 3, 3, dtype=torch.complex128)
    product = torch.fft.irfft(torch.fft.rfft(adapter.C, dim=0) @ complex_core @ torch.fft.rfft(adapter.R, dim=0), n=6,
                              dim=0)  # fmt: skip
    with torch.no_grad():
        adapter.core.copy_(torch.fft.irfft(complex_core, n=6, dim=0))
    real = complex_core.clone()
    real[[0, 3]] = real[[0, 3]].real.to(real)  # a real tensor has a real first and last frequency
    symmetric = torch.fft.irfft(torch.fft.rfft(adapter.C, dim=0) @ real @ torch.fft.rfft(adapter.R, dim=0), n=6, dim=0)
    assert torch.allclose(product, symmetric)
    for i in range(6):
        assert torch.allclose(adapter.delta(i, weights[i]), product[i], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": None}, "rank=None and energy=None: give one"),
        ({"energy": 0.5, "rank": 8}, "rank=8 and energy=0.5: give one"),
        ({"energy": 1.5, "rank": None}, "energy=1.5 must be above 0"),
        ({"row_selection": "best"}, r"selection=.best. is not what was expected: Literal"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(options, words, tiny):
    config = OmegaConf.to_container(read_adapter("tcurlora"), resolve=True)
    config["method"].update(options)
    with pytest.raises(UserError, match=words):
        adapt_from_config(tiny, config, seed=0)


@pytest.mark.parametrize("rank", [0, -1, 25])
def test_a_rank_that_no_slice_can_have_is_refused(rank, tiny):
    with pytest.raises(UserError, match=rf"rank={rank} .*24 x 24 .* choose 1 to 24"):
        adapt(tiny, "tcurlora", rank=rank)


def test_indices_outside_the_weights_are_refused():
    adapter, weights = make(4)
    adapter.rows[0] = 9
    with pytest.raises(UserError, match="outside a weight of size 9"):
        adapter.gather(weights)
    adapter.rows[0] = -1
    with pytest.raises(UserError, match="outside"):
        adapter.gather(weights)


def test_a_network_cast_to_double_keeps_no_rounding_of_single(build, distance):
    adapter = adapt(build(), "tcurlora", rank=2).double().adapters["up"]
    with torch.no_grad():
        adapter.core.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 4000, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.zeros(48, 24, dtype=torch.float64)
    (fast,) = adapter.updates([5], x, [], [weight])
    assert distance(fast, x @ adapter.delta(5, weight).T) < 1e-12
