"""AdaLoRA: low-rank updates in SVD form, with an adaptive rank budget shared by all weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcurlora_seg.adapters.base import SliceBySlice, scale_of
from tcurlora_seg.adapters.stacks import Stack, check_rank
from tcurlora_seg.errors import UserError


class AdaLoRA(SliceBySlice):
    """Adaptive budget allocation: delta = (alpha / r0) P diag(E) Q, with the least important E set to zero.

    P (out, r0) and Q (r0, in) start from N(0, 0.02^2), E (r0) at zero. It trains r0 (out + in + 1) numbers per matrix.
    The loss grows by `orthogonality` times the mean of ||P'P - I|| and ||Q Q' - I|| over all matrices.

    After every step each entry w with gradient g has a sensitivity |w g|, its running mean I and the running mean U of
    the sensitivity's distance from I, both with weight `smoothing` on the past. A triple k scores
    s(E_k) + mean s(Q_k) + mean s(P_k) with s = I U. Of all triples of all matrices together only the best b(t) keep
    their E; a triple that was dropped may come back until the last share of the training:

        b(t) = n r + n (r0 - r) (1 - (t - t1) / (t2 - t1))^3    for t1 < t <= t2, t1 = warmup T, t2 = (1 - final) T

    The source gives t1 and t2 in steps for each of its data sets, between a tenth and a half of the run; shares
    fit runs of any length.

    Args:
        stack: the stack's geometry.
        weights: (slices, out, in).
        rank: r, the mean rank of the matrices in the end.
        initial_rank: r0; None for 1.5 r, or as much as the weights allow.
        alpha: the scale times r0; None for r0.
        orthogonality: weight of the penalty.
        smoothing: of both running means.
        warmup: share of the training before the first cut.
        final: share of the training after the last cut, with a fixed choice.
        interval: steps between two cuts.
        generator: for the start of P and Q.

    Raises:
        UserError: a rank that the slices cannot have, r0 below r, an invalid schedule, a negative penalty.

    Source: Zhang et al., AdaLoRA: adaptive budget allocation, 2023, arXiv 2303.10512.
    """

    resume_only = frozenset(f"{mean}_{name}" for mean in ("importance", "uncertainty") for name in "PEQ")
    kept: Tensor

    def __init__(
        self,
        stack: Stack,
        weights: Tensor,
        *,
        rank: int,
        initial_rank: int | None = None,
        alpha: float | None = None,
        orthogonality: float = 0.5,
        smoothing: float = 0.85,
        warmup: float = 0.1,
        final: float = 0.5,
        interval: int = 10,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_rank(rank, stack.shape, stack.roles)
        slices, out, inner = weights.shape
        start = min(math.ceil(1.5 * rank), out, inner) if initial_rank is None else initial_rank
        if not rank <= start <= min(stack.shape):
            raise UserError(f"initial_rank={start}: choose rank={rank} to {min(stack.shape)}")
        if min(warmup, final) < 0 or warmup + final > 1 or final == 1 or not 0 <= smoothing < 1 or interval < 1:
            raise UserError(f"warmup={warmup}, final={final}, smoothing={smoothing}, interval={interval}: the shares "
                            "add up to at most 1, final and smoothing are below 1, interval at least 1")  # fmt: skip
        if orthogonality < 0:
            raise UserError(f"orthogonality={orthogonality} must be at least 0")
        self.rank, self.initial_rank, self.scale = rank, start, scale_of(alpha, start)
        self.orthogonality, self.smoothing = orthogonality, smoothing
        self.warmup, self.final, self.interval = warmup, final, interval
        draws = [0.02 * torch.randn(slices, *shape, generator=generator) for shape in ((out, start), (start, inner))]
        self.P, self.Q = (nn.ParameterList(s.clone() for s in draw.to(weights)) for draw in draws)
        self.E = nn.ParameterList(weights.new_zeros(start) for _ in range(slices))
        self.register_buffer("kept", torch.ones(slices, start, dtype=torch.bool, device=weights.device))
        for name, shape in (("P", (out, start)), ("E", (start,)), ("Q", (start, inner))):
            self.register_buffer(f"importance_{name}", weights.new_zeros(slices, *shape))
            self.register_buffer(f"uncertainty_{name}", weights.new_zeros(slices, *shape))

    def delta(self, index: int, weight: Tensor) -> Tensor:
        """(alpha / r0) P diag(E) Q."""
        return self.scale * (self.P[index] * self.E[index]) @ self.Q[index]

    def update(self, index: int, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Q, E and P one after another."""
        return F.linear(F.linear(x, self.Q[index]) * (self.scale * self.E[index]), self.P[index])

    @classmethod
    def penalty(cls, adapters: Sequence[Self]) -> Tensor:
        """Orthogonality penalty: mean distance of P and Q from orthonormal, over all matrices of all stacks."""
        distances = []
        for adapter in adapters:
            for rows in [*(p.mT for p in adapter.P), *adapter.Q]:
                identity = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
                distances.append(adapter.orthogonality * torch.linalg.matrix_norm(rows @ rows.mT - identity))
        return torch.stack(distances).mean()

    @classmethod
    @torch.no_grad()
    def after_step(cls, adapters: Sequence[Self], step: int, total: int, lr: float) -> None:
        """Update the sensitivities; when a cut is due, prune all but the best triples of all stacks together."""
        for adapter in adapters:
            adapter.observe()
        if len({(adapter.warmup, adapter.final, adapter.interval) for adapter in adapters}) > 1:
            raise UserError("stacks of AdaLoRA share one budget: give all of them the same warmup, final and interval")
        first = adapters[0]
        start, end = round(first.warmup * total), max(1, round((1 - first.final) * total))
        if step == end or (start < step < end and (step - start) % first.interval == 0):
            scores = [adapter.scores() for adapter in adapters]
            best = torch.cat([score.flatten() for score in scores]).topk(budget(adapters, step, start, end)).indices
            kept = torch.zeros(sum(s.numel() for s in scores), dtype=torch.bool, device=best.device)
            kept[best] = True
            for adapter, part in zip(adapters, kept.split([s.numel() for s in scores]), strict=True):
                adapter.kept.copy_(part.view_as(adapter.kept))
        elif step < end:
            return
        for adapter in adapters:
            for values, kept in zip(adapter.E, adapter.kept, strict=True):
                values *= kept

    @torch.no_grad()
    def observe(self) -> None:
        """Update the running means of the sensitivities from the gradients of the last step."""
        for name in "PEQ":
            means = zip(getattr(self, name), getattr(self, f"importance_{name}"), getattr(self, f"uncertainty_{name}"),
                        strict=True)  # fmt: skip
            for parameter, importance, uncertainty in means:
                if parameter.grad is not None:
                    sensitivity = (parameter * parameter.grad).abs()
                    importance.lerp_(sensitivity, 1 - self.smoothing)
                    uncertainty.lerp_((sensitivity - importance).abs(), 1 - self.smoothing)

    def scores(self) -> Tensor:
        """Importance scores of the triples (slices, r0)."""
        p, e, q = (getattr(self, f"importance_{name}") * getattr(self, f"uncertainty_{name}") for name in "PEQ")
        return e + q.mean(2) + p.mean(1)

    def ranks(self) -> list[int]:
        """Number of non-zero triples of each slice."""
        return [int(values.count_nonzero()) for values in self.E]


def budget(adapters: Sequence[AdaLoRA], step: int, start: int, end: int) -> int:
    """Budget schedule b(t): the number of triples that all matrices together keep.

    Args:
        adapters: all adapters of the network.
        step: t, from `start` to `end`.
        start: t1, the end of the warm-up.
        end: t2, the step of the last cut.
    """
    left = (1 - (step - start) / (end - start)) ** 3 if step < end else 0.0
    return sum(len(a.E) * a.rank + round(len(a.E) * (a.initial_rank - a.rank) * left) for a in adapters)
