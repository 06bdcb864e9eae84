"""The chain against the t-product's definition, and the choice between it and building the slices."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg.adapters.tchain import apply_chain, building_is_cheaper, left_in_basis, right_in_basis
from tcurlora_seg.adapters.tproduct import fourier_basis, rotations


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("members", [[0], [0, 1, 2], [2, 0]])
def test_the_chain_is_the_double_convolution_of_its_factors(n, members):
    g = torch.Generator().manual_seed(n)
    a, b, c = (torch.randn(n, *shape, generator=g, dtype=torch.float64) for shape in ((6, 2), (2, 2), (2, 5)))
    x = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    basis, turns, indices = fourier_basis(n), rotations(n), [i % n for i in members]
    results = apply_chain(left_in_basis(a, basis), b, right_in_basis(c, basis), turns, x, indices)
    for i, result in zip(indices, results, strict=True):
        expected = sum(
            x @ (a[j] @ b[k] @ c[m]).T for j in range(n) for k in range(n) for m in range(n) if (j + k + m) % n == i
        )
        assert torch.allclose(result, expected, rtol=0, atol=1e-11)


def test_cost_decides_between_the_forms():
    assert not building_is_cheaper(216, 3, 768, 768, 48, 8)  # the paper's attention stack, one patch of 96^3
    assert not building_is_cheaper(2048, 1, 3072, 768, 12, 8)  # its up stack, a batch of 4 x 128^3
    assert building_is_cheaper(2048, 1, 768, 768, 48, 64)  # a rank at which the factors outgrow the weight
    assert not building_is_cheaper(2048, 1, 768, 768, 48, 10)
    assert building_is_cheaper(2048, 1, 768, 768, 48, 10, trained=True)  # gradients of the factors are a third pass
