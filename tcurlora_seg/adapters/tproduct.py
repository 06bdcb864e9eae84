"""Algebra of third-order tensors (slices, rows, columns) under the t-product."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tproduct(a: Tensor, b: Tensor) -> Tensor:
    """The t-product: (A * B)_i = sum_j A_j B_(i-j mod n), a circular convolution along the slices.

    In the Fourier domain along the slices it is a product of matrices, slice by slice; that is how it is computed.

    Args:
        a: (n, rows, inner).
        b: (n, inner, columns).

    Returns:
        (n, rows, columns), in float32 at least.

    Source: Kilmer and Martin, Factorization strategies for third-order tensors, 2011.
    """
    return torch.fft.irfft(fourier(a) @ fourier(b), n=len(a), dim=0)


def tproduct_slice(a: Tensor, b: Tensor, index: int) -> Tensor:
    """Slice `index` (rows, columns) of A * B (see `tproduct`) alone: [A_0 A_1 ...] times [B_i; B_(i-1); ...]."""
    order = (index - torch.arange(len(a), device=a.device)) % len(a)
    return a.transpose(0, 1).flatten(1) @ b[order].flatten(0, 1).to(a.dtype)


def orthonormalised(tensor: Tensor) -> Tensor:
    """Factor Q of the t-QR decomposition A = Q * T, Q' * Q = I, with A and Q (n, rows, r): a QR per Fourier slice."""
    spectrum = fourier(tensor)
    return torch.fft.irfft(torch.linalg.qr(spectrum).Q, n=len(tensor), dim=0)


def fourier(tensor: Tensor) -> Tensor:
    """Half spectrum of a tensor along the slices (real FFT), in single precision at least."""
    return torch.fft.rfft(tensor.to(torch.promote_types(tensor.dtype, torch.float32)), dim=0)


def multiplicities(n: int) -> Tensor:
    """Multiplicities (n // 2 + 1,) of the half spectrum's frequencies in the whole one: conjugates come in pairs."""
    counts = torch.full((n // 2 + 1,), 2.0)
    counts[0] = 1
    if n % 2 == 0:
        counts[-1] = 1
    return counts


def fourier_basis(n: int) -> Tensor:
    """Real orthonormal Fourier basis, one vector a row, (n, n) float64.

    First the pairs cos(2 pi k j / n), -sin(2 pi k j / n) for k = 1, 2, ... below n / 2, then the constant, then for
    even n the alternating vector. Every circular convolution turns into 2 x 2 blocks in it (see `rotations`).
    """
    cos, sin, alternating = _waves(n)
    pairs = torch.stack([cos, -sin], 1).flatten(0, 1) * math.sqrt(2)
    rest = [torch.ones_like(alternating), alternating] if n % 2 == 0 else [torch.ones_like(alternating)]
    return torch.cat([pairs, torch.stack(rest)]) / math.sqrt(n)


def rotations(n: int) -> Tensor:
    """Shifts by m slices in the Fourier basis: (blocks, 2, 2, n), where block b rotates the basis' pair b by m.

    Convolving with numbers u_m is the block-diagonal matrix sum_m u_m rotations[..., m]. The last block holds the
    constant and the alternating vector; for odd n its second row and column are zero. There are (n + 1) // 2 blocks.
    """
    cos, sin, alternating = _waves(n)
    pairs = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    last = torch.zeros(1, 2, 2, n, dtype=torch.float64)
    last[0, 0, 0] = 1
    if n % 2 == 0:
        last[0, 1, 1] = alternating
    return torch.cat([pairs, last])


def _waves(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """cos and sin of 2 pi k m / n for 0 < k < n / 2 (k, n), and (-1)^m (n,)."""
    m = torch.arange(n, dtype=torch.float64)
    angles = 2 * math.pi / n * m[1 : (n + 1) // 2, None] * m
    return angles.cos(), angles.sin(), 1 - 2 * (m % 2)
