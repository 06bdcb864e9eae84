"""The t-product against its definition, and the real Fourier basis against what it must diagonalise."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg.adapters.tproduct import (
    fourier,
    fourier_basis,
    multiplicities,
    rotations,
    tproduct,
    tproduct_slice,
)

sizes = pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 12, 48])


def tensor(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def literal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    n = len(a)
    return torch.stack([sum((a[j] @ b[(i - j) % n] for j in range(n)), torch.zeros(())) for i in range(n)])


@sizes
def test_the_t_product_is_the_circular_convolution_of_slices(n):
    a, b = tensor(n, 3, 4), tensor(n, 4, 5)
    assert torch.allclose(tproduct(a, b), literal(a, b), rtol=0, atol=1e-12)
    for i in range(n):
        assert torch.allclose(tproduct_slice(a, b, i), literal(a, b)[i], rtol=0, atol=1e-12)


def test_it_is_associative_and_turns_with_its_factors():
    a, b, c = tensor(6, 3, 4), tensor(6, 4, 5), tensor(6, 5, 2)
    assert torch.allclose(tproduct(tproduct(a, b), c), tproduct(a, tproduct(b, c)), atol=1e-12)
    assert torch.allclose(tproduct(a.roll(2, 0), b), tproduct(a, b).roll(2, 0), atol=1e-12)


def test_it_is_neither_the_slice_wise_product_nor_blind_to_the_order():
    a, b = tensor(4, 3, 3), tensor(4, 3, 3)
    order = torch.tensor([0, 2, 1, 3])
    assert not torch.allclose(tproduct(a, b), a @ b)
    assert not torch.allclose(tproduct(a[order], b[order]), tproduct(a, b)[order])


def test_half_precision_is_raised_and_autocast_has_no_say():
    a, b = tensor(4, 8, 8).float(), tensor(4, 8, 8).float()
    exact = tproduct(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tproduct(a, b), exact)
    assert tproduct(a.bfloat16(), b.bfloat16()).dtype == torch.float32


@sizes
def test_the_half_spectrum_counted_with_multiplicity_is_the_whole_one(n):
    a = tensor(n, 3, 2)
    whole = torch.fft.fft(a, dim=0).abs().sum(0)
    assert torch.allclose((multiplicities(n).double()[:, None, None] * fourier(a).abs()).sum(0), whole)


@sizes
def test_the_fourier_basis_is_orthonormal(n):
    basis = fourier_basis(n)
    assert basis.dtype == torch.float64
    assert torch.allclose(basis @ basis.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-13)


@sizes
def test_a_convolution_is_block_diagonal_in_the_fourier_basis(n):
    u, basis, turn = tensor(n), fourier_basis(n), rotations(n)
    index = torch.arange(n)
    convolution = u[(index[:, None] - index) % n]
    blocks = torch.block_diag(*torch.einsum("bpqm,m->bpq", turn, u))[:n, :n]
    assert turn.shape == ((n + 1) // 2, 2, 2, n)
    assert torch.allclose(basis @ convolution @ basis.T, blocks, rtol=0, atol=1e-12)
