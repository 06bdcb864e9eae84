"""Products of vectors with slices of A * B * C, a chain under the t-product, without building any slice.

(A * B * C)_i x = sum_j A_(i-j) w_j with w = B * (C x): the inner product of the reversed slices of A with w shifted by
i. An orthonormal basis of the slices keeps inner products, and in the real Fourier basis both the shift and the
convolution with B are 2 x 2 blocks of small matrices. This leaves two projections, shared by all slices with the
input x, and n / 2 small products between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tcurlora_seg.adapters.base import no_autocast


def left_in_basis(left: Tensor, basis: Tensor) -> Tensor:
    """Last projection (out, n r) of the chain: `left`, A (n, out, r), in `basis`, `tproduct.fourier_basis(n)`."""
    reversed_slices = -torch.arange(len(left), device=left.device) % len(left)
    return torch.einsum("mn,nor->omr", basis, left[reversed_slices]).flatten(1)


def right_in_basis(right: Tensor, basis: Tensor) -> Tensor:
    """First projection (n r, in) of the chain: `right`, C (n, r, in), in `basis`, `tproduct.fourier_basis(n)`."""
    return torch.einsum("mn,nri->mri", basis, right).flatten(0, 1)


def apply_chain(
    left: Tensor, core: Tensor, right: Tensor, rotations: Tensor, x: Tensor, indices: Sequence[int]
) -> list[Tensor]:
    """Chain product (A * B * C)_i x for the slices `indices`.

    Args:
        left: A in the Fourier basis (out, n r).
        core: B (n, r, r).
        right: C in the Fourier basis (n r, in).
        rotations: `tproduct.rotations(n)`.
        x: (..., in).
        indices: the slices i.

    Returns:
        (..., out) for each slice.
    """
    n, rank, _ = core.shape
    tokens, blocks = x.numel() // x.shape[-1], (n + 1) // 2
    z = F.linear(x, right).reshape(tokens, n * rank)
    if n % 2:
        z = F.pad(z, (0, rank))  # the constant vector has no partner
    z = z.view(tokens, blocks, 2 * rank).transpose(0, 1)
    w = torch.bmm(z, _turned(core, rotations, indices).to(z.dtype))
    w = w.view(blocks, tokens, len(indices), 2 * rank).permute(2, 1, 0, 3).flatten(2)
    y = F.linear(w[..., : n * rank], left)
    return list(y.view(len(indices), *x.shape[:-1], -1).unbind())


def _turned(core: Tensor, rotations: Tensor, indices: Sequence[int]) -> Tensor:
    """B, shifted for each slice, in the Fourier basis and transposed: (blocks, 2 r, slices 2 r)."""
    with no_autocast(core):
        shifted = torch.stack([core.roll(-i, 0) for i in indices])
        cores = torch.einsum("bpqn,snij->bqjspi", rotations, shifted)
    return cores.flatten(3).flatten(1, 2)


def building_is_cheaper(
    tokens: int, slices: int, out: int, inner: int, n: int, rank: int, *, trained: bool = False
) -> bool:
    """Whether building the slices takes fewer multiplications than the chain, in a step forward and backward.

    Args:
        tokens: number of vectors x.
        slices: number of slices that share them.
        out: rows of a slice.
        inner: columns of a slice.
        n: slices of the stack.
        rank: r.
        trained: whether gradients reach A and C, beside the input and B.
    """
    passes = 3 if trained else 2
    chain = passes * tokens * n * rank * (inner + slices * out) + 3 * tokens * slices * 2 * n * rank**2
    built = 3 * slices * out * inner * (tokens + n * rank)
    return built < chain
