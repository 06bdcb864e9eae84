"""Block-circulant matrices: what a circulant matrix is, and that the FFT multiplies by it."""

from __future__ import annotations

import pytest
import torch

from tcurlora_seg.adapters.circulant import circulant, multiply_circulant


def test_every_block_is_its_first_column_turned_down_by_one_from_column_to_column():
    blocks = torch.arange(24.0).view(3, 2, 4)
    matrix = circulant(blocks)
    assert matrix.shape == (12, 8)
    for m in range(3):
        for n in range(2):
            for j in range(4):
                expected = blocks[m, n].roll(j)
                assert torch.equal(matrix[4 * m : 4 * m + 4, 4 * n + j], expected)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_the_product_is_that_of_the_matrix(size):
    g = torch.Generator().manual_seed(size)
    blocks = torch.randn(3, 2, size, generator=g, dtype=torch.float64)
    x = torch.randn(2, 5, 2 * size, generator=g, dtype=torch.float64)
    assert torch.allclose(multiply_circulant(blocks, x), x @ circulant(blocks).T, rtol=0, atol=1e-12)


def test_half_precision_is_raised_and_autocast_has_no_say():
    g = torch.Generator().manual_seed(0)
    blocks, x = torch.randn(3, 2, 8, generator=g), torch.randn(5, 16, generator=g)
    exact = multiply_circulant(blocks, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(multiply_circulant(blocks, x), exact)
    assert multiply_circulant(blocks, x.bfloat16()).dtype == torch.float32
