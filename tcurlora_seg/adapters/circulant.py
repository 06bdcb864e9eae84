"""Block-circulant matrices: dense form, and multiplication by FFT."""

from __future__ import annotations

import torch
from torch import Tensor

from tcurlora_seg.adapters.base import no_autocast


def circulant(blocks: Tensor) -> Tensor:
    """Dense block-circulant matrix from the first columns of its blocks: circ(c)[i, j] = c_(i-j mod p).

    Args:
        blocks: (rows, columns, p), the first column of each block.

    Returns:
        (rows p, columns p).
    """
    rows, columns, size = blocks.shape
    index = torch.arange(size, device=blocks.device)
    written = blocks[..., (index[:, None] - index) % size]
    return written.transpose(1, 2).reshape(rows * size, columns * size)


def multiply_circulant(blocks: Tensor, x: Tensor) -> Tensor:
    """Product of `circulant(blocks)` with vectors by FFT, without the matrix: circ(c) x = ifft(fft c . fft x).

    Args:
        blocks: (rows, columns, p).
        x: (..., columns p).

    Returns:
        (..., rows p), in float32 at least, also under autocast.
    """
    rows, columns, size = blocks.shape
    with no_autocast(x):
        precision = torch.promote_types(x.dtype, torch.float32)
        vectors = torch.fft.rfft(x.to(precision).reshape(-1, columns, size))
        factors = torch.fft.rfft(blocks.to(precision))
        products = torch.einsum("tcf,rcf->trf", vectors, factors)
        return torch.fft.irfft(products, n=size).reshape(*x.shape[:-1], rows * size)
