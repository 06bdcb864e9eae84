"""The tensor SVD against the full SVD of every Fourier slice."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg.adapters.spectrum import energies, leading_triples
from tcurlora_seg.adapters.tproduct import tproduct

shapes = pytest.mark.parametrize("shape", [(5, 9, 6), (6, 5, 8), (4, 7, 7), (1, 6, 4)])


def weights(shape: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@shapes
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_the_leading_triples_are_those_of_each_fourier_slices_svd(shape, rank):
    for slice_, left, values, right in zip(
        torch.fft.rfft(weights(shape), dim=0), *leading_triples(weights(shape), rank), strict=True
    ):
        U, S, Vh = torch.linalg.svd(slice_, full_matrices=False)
        assert torch.allclose(values, S[:rank])
        assert torch.allclose((left * values) @ right.mH, (U[:, :rank] * S[:rank]) @ Vh[:rank])


@shapes
def test_all_of_them_give_the_tensor_back_by_real_factors(shape):
    w = weights(shape)
    left, values, right = leading_triples(w, min(shape[1:]))
    real = [torch.fft.irfft(part, n=shape[0], dim=0) for part in (left, torch.diag_embed(values), right.mH)]
    assert torch.allclose(tproduct(tproduct(real[0], real[1]), real[2]), w, rtol=0, atol=1e-10)


def test_single_precision_stays_and_is_good_enough_for_what_leads():
    w = weights((6, 40, 30), torch.float32)
    left, values, right = leading_triples(w, 4)
    assert (left.dtype, values.dtype, right.dtype) == (torch.complex64, torch.float32, torch.complex64)
    exact = leading_triples(w.double(), 4)
    assert torch.allclose(values.double(), exact[1], rtol=1e-5)
    assert torch.allclose((left @ right.mH).cdouble(), exact[0] @ exact[2].mH, rtol=0, atol=1e-4)


def test_no_numbers_are_needed_for_the_shapes():
    left, values, right = leading_triples(torch.empty(12, 30, 20, device="meta"), 3)
    assert (left.shape, values.shape, right.shape) == ((7, 30, 3), (7, 3), (7, 20, 3))


@shapes
def test_energies_sum_to_the_whole_and_say_what_the_best_approximation_holds(shape):
    w, rank = weights(shape), 2
    shares = energies(w)
    assert shares.shape == (min(shape[1:]),) and shares.sum().item() == pytest.approx(w.square().sum().item())
    left, values, right = leading_triples(w, rank)
    real = [torch.fft.irfft(part, n=shape[0], dim=0) for part in (left, torch.diag_embed(values), right.mH)]
    rest = w - tproduct(tproduct(real[0], real[1]), real[2])
    assert rest.square().sum().item() == pytest.approx(shares[rank:].sum().item())
