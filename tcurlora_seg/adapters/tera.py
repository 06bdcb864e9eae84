"""TeRA: full-rank updates from a frozen random tensor network with a few trained scaling vectors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tcurlora_seg.adapters.base import SliceBySlice
from tcurlora_seg.adapters.stacks import Stack
from tcurlora_seg.errors import UserError


class TeRA(SliceBySlice):
    """Random tensor network adaptation: delta_l = s unfold(G x_1 A_1 diag(d_1,l) ... x_6 A_6 diag(d_6,l)).

    Rows and columns are split into three modes each, as equal as can be (768 = 8 8 12, 3072 = 12 16 16). The core G,
    of the size of a weight, and the square factors A_n are random, frozen and shared by the whole stack; the vectors
    d_n,l, one entry for each index of each mode, train: 56 numbers for a 768 x 768 matrix. With
    L = (A_1 diag d_1) kron (A_2 diag d_2) kron (A_3 diag d_3) and R alike from d_4 to d_6, delta = s L G R'.

    This follows the abstract; the paper's text and code were not available. Our choices: three modes a side, all
    ranks full, the start d_1 = 0 and otherwise 1, entries uniform of variance 1 (G) and 1 / size (A_n), and
    s = scale times the root mean square of the stack's weights, so that all d = 1 changes a weight by about that share.

    A file stores the seed and the SHA-256 of the random tensors, not the tensors.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        scale: see above.
        generator: for the seed.

    Raises:
        UserError: a scale of 0 or below.

    Source: Gu et al., TeRA: Vector-based Random Tensor Network for High-Rank Adaptation, 2025, arXiv 2509.03234.
    """

    seed: Tensor
    digest: Tensor
    size: Tensor
    core: Tensor

    def __init__(self, stack: Stack, weights: Tensor, *, scale: float = 0.1, generator: torch.Generator) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise UserError(f"scale={scale}: a number above 0 is needed")
        slices, out, inner = weights.shape
        self.modes = [*split(out), *split(inner)]
        starts = [weights.new_ones(slices, mode) for mode in self.modes]
        starts[0].zero_()
        self.diagonals = nn.ParameterList(starts)
        self.register_buffer("seed", torch.randint(2**62, (), generator=generator, device="cpu"))
        self.register_buffer("size", scale * weights.square().mean().sqrt())
        self.register_buffer("core", None, persistent=False)
        for n in range(len(self.modes)):
            self.register_buffer(f"factor{n}", None, persistent=False)
        drawn = draw(int(self.seed), self.modes)
        self.register_buffer("digest", digest_of(drawn))
        self._keep(drawn, weights)

    def gather(self, weights: Tensor) -> None:
        """Redraw the frozen random tensors from the stored seed.

        Raises:
            UserError: the seed gives other numbers here than it gave where the file was written.
        """
        drawn = draw(int(self.seed), self.modes)
        if not torch.equal(digest_of(drawn), self.digest.cpu()):
            raise UserError(
                f"the stored seed {int(self.seed)} does not give the random tensors of the training: the file is "
                "damaged, or this version of torch draws other numbers"
            )
        self._keep(drawn, weights)

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """s L G R'."""
        left, right = self._scaled(index)
        return self.size * (_kron(left) @ self.core @ _kron(right).T)

    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """R', G and L one after another, R and L mode by mode; the main cost is one product with the frozen G."""
        left, right = self._scaled(index)
        tokens = x.reshape(-1, *self.modes[3:])
        z = torch.einsum("tabc,ai,bj,ck->tijk", tokens, *right).flatten(1) @ self.core.T
        y = torch.einsum("tijk,ai,bj,ck->tabc", z.view(-1, *self.modes[:3]), *left)
        return self.size * y.reshape(*x.shape[:-1], -1)

    def _scaled(self, index: int) -> tuple[list[Tensor], list[Tensor]]:
        """A_n diag(d_n) of a slice: three for the rows, three for the columns."""
        factors = [getattr(self, f"factor{n}") * d[index] for n, d in enumerate(self.diagonals)]
        return factors[:3], factors[3:]

    def _keep(self, drawn: Sequence[Tensor], weights: Tensor) -> None:
        self.core = drawn[0].to(weights).reshape(weights.shape[1:])
        for n, factor in enumerate(drawn[1:]):
            setattr(self, f"factor{n}", factor.to(weights))


def split(size: int) -> tuple[int, int, int]:
    """Factorisation of `size` into three ascending whole numbers of least sum."""
    pairs = [(a, size // a) for a in range(1, size + 1) if size % a == 0]
    triples = [(a, b, rest // b) for a, rest in pairs for b in range(a, rest + 1) if rest % b == 0 and b <= rest // b]
    return min(triples, key=sum)


def draw(seed: int, modes: Sequence[int]) -> list[Tensor]:
    """Random core (modes...) and factors (mode, mode) in float64, from a `seed` and the sizes of the `modes`.

    Uniform numbers, shifted and scaled, are exact on every machine; normal ones differ in the last bit.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = [tuple(modes), *((mode, mode) for mode in modes)]
    deviations = [1.0, *(1 / math.sqrt(mode) for mode in modes)]
    return [
        (torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu") - 0.5) * (math.sqrt(12) * deviation)
        for shape, deviation in zip(shapes, deviations, strict=True)
    ]


def digest_of(tensors: Sequence[Tensor]) -> Tensor:
    """SHA-256 of the tensors' bytes, (32,) uint8."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8, device="cpu")


def _kron(factors: Sequence[Tensor]) -> Tensor:
    a, b, c = factors
    return torch.kron(torch.kron(a, b), c)
