"""TensLoRA against a slow, literal transcription of its definition, in all seven tensorisations."""

from __future__ import annotations

import itertools

import pytest
import torch

from tcurlora_seg import adapt
from tcurlora_seg.adapters.base import Adapter
from tcurlora_seg.adapters.stacks import Slot, Stack
from tcurlora_seg.adapters.tenslora import TensLoRA
from tcurlora_seg.errors import UserError

COUNTS = {  # at rank 4 on q, k, v of the paper's network
    "att": 123_840, "qkv": 74_412, "depth": 18_768, "att_qkv": 42_924, "att_depth": 11_040, "qkv_depth": 6_393,
    "att_qkv_depth": 4_201,
}  # fmt: skip
every_tensorisation = pytest.mark.parametrize("name", COUNTS)


def stack(blocks: int, roles: tuple[str, ...], heads: int, out: int, inner: int) -> Stack:
    slots = tuple(Slot(b, r, f"layer{b}{r}", 0, out) for b in range(blocks) for r in roles)
    return Stack(slots, tuple(range(blocks)), roles, heads, out, inner)


def make(name: str, **options) -> TensLoRA:
    """Three blocks, two roles, two heads of four rows; a moved core."""
    g = torch.Generator().manual_seed(0)
    geometry = stack(3, ("q", "v"), 2, 8, 8)
    weights = torch.zeros(6, 8, 8, dtype=torch.float64)
    adapter = TensLoRA(geometry, weights, tensorisation=name, generator=g, **{"rank": 3, **options})
    with torch.no_grad():
        for core in adapter.cores:
            core.copy_(torch.randn(core.shape, generator=g, dtype=torch.float64))
    return adapter


@every_tensorisation
def test_delta_and_the_update_are_a_slice_of_the_tensor(name):
    adapter, joined = make(name, alpha=1.5), name.split("_")
    sizes = {"in": 8, "head": 2, "dim": 4} if "att" in joined else {"in": 8, "out": 8}
    sizes |= ({"role": 2} if "qkv" in joined else {}) | ({"block": 3} if "depth" in joined else {})
    x = torch.randn(5, 8, dtype=torch.float64)
    weights = [torch.zeros(8, 8, dtype=torch.float64)] * 2
    for b in range(3):
        updates = adapter.updates([2 * b, 2 * b + 1], x, [x, x], weights)
        for r in range(2):
            tensor = (0 if "depth" in joined else b) * (1 if "qkv" in joined else 2) + (0 if "qkv" in joined else r)
            whole = torch.zeros(*sizes.values(), dtype=torch.float64)
            core, factors = adapter.cores[tensor], adapter.factors[tensor]
            assert set(factors) == set(sizes)
            for ranks in itertools.product(*map(range, core.shape)):
                term = core[ranks].detach()
                for mode, k in zip(sizes, ranks, strict=True):
                    term = term[..., None] * factors[mode][:, k].detach()
                whole += term
            expected = torch.zeros(8, 8, dtype=torch.float64)
            tail = ([r] if "qkv" in joined else []) + ([b] if "depth" in joined else [])
            for row in range(8):
                rows = [row // 4, row % 4] if "att" in joined else [row]
                for i in range(8):
                    expected[row, i] = 1.5 * whole[(i, *rows, *tail)]
            assert torch.allclose(adapter.delta(2 * b + r, weights[0]), expected, rtol=0, atol=1e-12)
            assert torch.allclose(updates[r], x @ expected.T, rtol=0, atol=1e-12)


@every_tensorisation
def test_the_counts_of_the_papers_network(name):
    geometry = stack(12, ("q", "k", "v"), 12, 768, 768)
    weights = torch.empty(36, 768, 768, device="meta")
    adapter = TensLoRA(geometry, weights, rank=4, tensorisation=name, generator=torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in adapter.parameters()) == COUNTS[name]


@every_tensorisation
def test_factors_start_orthonormal_and_different_in_every_tensor_and_the_core_at_zero(name):
    adapter = TensLoRA(
        stack(3, ("q", "v"), 2, 8, 8), torch.zeros(6, 8, 8, dtype=torch.float64), rank=2, tensorisation=name,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert not any(core.any() for core in adapter.cores)
    for factors in adapter.factors:
        for factor in factors.values():
            assert torch.allclose(factor.T @ factor, torch.eye(factor.shape[1], dtype=torch.float64), atol=1e-6)
    firsts = [factors["in"] for factors in adapter.factors]
    assert not any(torch.equal(a, b) for i, a in enumerate(firsts) for b in firsts[:i])


def test_a_head_of_the_tensor_is_a_head_of_the_attention(tiny):
    """Only the rows of head 1 of q move when the head factor names only head 1."""
    adapter = adapt(tiny, "tenslora").adapters["attention"]
    with torch.no_grad():
        adapter.cores[0].normal_()
        adapter.factors[0]["head"][0] = 0
    delta = adapter.delta(0, torch.zeros(24, 24))
    assert not delta[:12].any() and delta[12:].any()
    query = tiny.vit.blocks[0].attn.input_rearrange(torch.arange(72.0).view(1, 1, 72))[0]
    assert query[0, 1, 0].tolist() == list(range(12, 24))


@pytest.mark.parametrize("name", ["att", "qkv_depth", "att_qkv_depth"])
def test_the_fast_form_equals_delta_in_the_network(name, tiny, stir):
    adapter = stir(adapt(tiny.double(), "tenslora", tensorisation=name)).adapters["attention"]
    x, weights = torch.randn(7, 24, dtype=torch.float64), [torch.zeros(24, 24, dtype=torch.float64)] * 3
    fast = adapter.updates([3, 4, 5], x, [x] * 3, weights)
    slow = Adapter.updates(adapter, [3, 4, 5], x, [x] * 3, weights)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(fast, slow, strict=True))


def test_modes_may_have_ranks_of_their_own():
    adapter = make("att_qkv_depth", ranks={"in": 5, "block": 1})
    assert adapter.cores[0].shape == (5, 2, 3, 2, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank=0 is not possible for the modes in .24., head .2., dim .12., role .3., block .12."),
        ({"rank": 25}, "rank=25 is not possible .* choose 1 to 24"),
        ({"ranks": {"role": 4}}, "ranks.role=4 is not possible: choose 1 to 3"),
        ({"ranks": {"out": 4}}, "ranks.out: there is no such mode; this tensorisation has in"),
    ],
)
def test_a_mistake_is_told_in_one_line(options, words, tiny):
    with pytest.raises(UserError, match=words):
        adapt(tiny, "tenslora", **options)


def test_rows_that_do_not_split_into_heads_are_refused():
    with pytest.raises(UserError, match="10 x 8 weights of q do not split into heads of 4 rows"):
        TensLoRA(stack(1, ("q",), 2, 10, 8), torch.zeros(1, 10, 8), rank=2, tensorisation="att",
                 generator=torch.Generator())  # fmt: skip
