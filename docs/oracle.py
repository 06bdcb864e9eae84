"""What an adapter could hold at best of an update that is known: that of a full fine-tuning.

    python docs/oracle.py RUN [OTHER]  # run directories of one base: with adapter=full; whose cases give gradients
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from monai.transforms import ResizeWithPadOrCrop
from torch import Tensor, nn

from tcurlora_seg.adapters.selection import Rule, select
from tcurlora_seg.adapters.spectrum import energies
from tcurlora_seg.adapters.tproduct import fourier, multiplicities
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.inference.run import load_run
from tcurlora_seg.models.backbone import build_network, window_of
from tcurlora_seg.models.pretrained import load_pretrained, read_tensors
from tcurlora_seg.models.stacking import stacked_weights, stacks_for

RANKS = (1, 2, 4, 8, 16, 32, 64)
STACKS = (["q", "k", "v", "o"], ["up"], ["down"])


@dataclass(frozen=True)
class Held:
    """Shares of ||dW||_F^2 at one rank, from 0 to 1.

    Attributes:
        rank: r.
        cur: what C * U * R holds with the best U, C and R chosen from W0.
        tsvd: what the best tensor of tubal rank r holds: no C and R can do better.
    """

    rank: int
    cur: float
    tsvd: float


def shares_held(
    weights: Tensor, change: Tensor, ranks: Sequence[int], *, selection: Rule | Tensor = "norm",
    generator: torch.Generator,
) -> list[Held]:  # fmt: skip
    """How much of an update the span of C and R can hold at all, rank by rank.

    min over U of ||dW - C * U * R|| is a least-squares problem in every Fourier slice, solved by projecting: with
    orthonormal bases Q and P of the columns of Chat_k and of the rows of Rhat_k, the best Uhat_k leaves
    Q Q^H dWhat_k P^H P. The share held is sum_k ||Q^H dWhat_k P^H||^2 / sum_k ||dWhat_k||^2 over the whole spectrum.

    Args:
        weights: W0 (n, out, in), before the update.
        change: dW (n, out, in), not zero.
        ranks: ascending or not, each at most min(out, in).
        selection: how C and R are chosen from W0, see `selection.select`; or a tensor, see `aligned`.
        generator: for the rules that draw.
    """
    spectrum = fourier(change)
    counts = multiplicities(len(change)).to(change)
    total = counts @ spectrum.abs().square().sum((1, 2))
    best = energies(change).cumsum(0) * len(change) / total
    shares = []
    for rank in ranks:
        if isinstance(selection, Tensor):
            rows, columns = aligned(weights, selection, rank)
        else:
            rows, columns = select(weights, rank, selection, generator)
        left, right = fourier(weights[:, :, columns]), fourier(weights[:, rows, :])
        inside = _basis(left).mH @ spectrum @ _basis(right.mH)
        held = counts @ inside.abs().square().sum((1, 2)) / total
        shares.append(Held(rank, held.item(), best[rank - 1].item()))
    return shares


def aligned(weights: Tensor, target: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of W whose own directions hold the most of a target T, each by itself.

    Column j scores sum_k ||What_k[:, j]^H That_k||^2 / ||What_k[:, j]||^2, row i the same from the right.

    Args:
        weights: W (n, out, in).
        target: T (n, out, in).
        rank: number of rows and of columns.
    """
    counts, chosen = multiplicities(len(weights)).to(weights), []
    for w, t in ((weights.mT, target.mT), (weights, target)):
        lines = nn.functional.normalize(fourier(w), dim=-1)
        scores = counts @ (lines.conj() @ fourier(t).mT).abs().square().sum(-1)
        chosen.append(scores.argsort(descending=True)[:rank])
    return chosen[1], chosen[0]


def _basis(columns: Tensor) -> Tensor:
    """Orthonormal bases of the columns (n, size, r); columns that repeat others become zero."""
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    kept = values > values[..., :1] * torch.finfo(values.dtype).eps * max(columns.shape[-2:])
    return left * kept[..., None, :]


def gradients(run: str) -> nn.Module:
    """Network of a run whose weights are the gradients of Dice and cross-entropy, summed over its training cases."""
    loaded = load_run(run, device="cpu")
    network, fit = loaded.network.requires_grad_(), ResizeWithPadOrCrop(window_of(loaded.config))
    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    for case in map(loaded.dataset.prepare, loaded.cases("train")):
        criterion(network(fit(case.image)[None].as_tensor()), fit(case.label)[None].as_tensor()).backward()
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.data = parameter.grad
    return network


def main(run: str, other: str | None = None) -> None:
    """Print the shares for the stacks of the paper, by the rules that choose C and R."""
    config = load_config(Path(run, "config.yaml"))
    channels = {key: config.model[key] for key in ("in_channels", "out_channels")}
    before, after = (build_network(config.model, window_of(config), **channels) for _ in range(2))
    load_pretrained(before, config.pretrained)
    trained = read_tensors(Path(run, "model.safetensors"))
    after.load_state_dict({name: tensor for name, tensor in trained.items() if name.startswith("vit.")}, strict=False)
    slopes = gradients(other) if other else None
    for stack in (stack for roles in STACKS for stack in stacks_for(before, roles)):
        old = stacked_weights(before, stack)
        change = stacked_weights(after, stack) - old
        print(" ".join(stack.roles), f"changed by {float(change.norm() / old.norm()):.1%}")
        rules: dict[str, Rule | Tensor] = {"norm": "norm", "leverage": "leverage", "uniform": "uniform"}
        rules |= {"gradient": stacked_weights(slopes, stack)} if slopes else {}
        for name, rule in {**rules, "the update itself": change}.items():
            held = shares_held(old, change, RANKS, selection=rule, generator=torch.Generator().manual_seed(0))
            print(f"  {name}:", *(f"r {h.rank}: {h.cur:.1%} of {h.tsvd:.1%};" for h in held))


if __name__ == "__main__":
    main(*sys.argv[1:])
