"""Start of a new output layer: logistic regression on the features that the base already has.

A random output layer sends random gradients into the layers below, and may spoil what the base knows. So it is fitted
before the first step, as linear probing before fine-tuning does (Kumar et al., "Fine-Tuning can Distort Pretrained
Features and Underperform Out-of-Distribution", ICLR 2022, arXiv 2202.10054).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tcurlora_seg.data.task import IGNORED
from tcurlora_seg.models.backbone import backbone_of
from tcurlora_seg.models.precision import autocast

_VOXELS = 500  # of a class in a window
_SHRINKAGE = 1e-3


def output_layer(network: nn.Module) -> nn.Conv3d | None:
    """The output layer where it is one linear map for all voxels, a convolution of kernel 1 with a bias; else None."""
    paths = {name.rpartition(".")[0] for name in backbone_of(network).head}
    layer = network.get_submodule(paths.pop()) if len(paths) == 1 else None
    if isinstance(layer, nn.Conv3d) and layer.kernel_size == (1, 1, 1) and layer.bias is not None:
        return layer
    return None


def probe(
    network: nn.Module,
    layer: nn.Conv3d,
    samples: Iterable[Mapping[str, Any]],
    *,
    precision: str,
    weights: Sequence[float] | None = None,
) -> None:
    """Fit an output layer in place by multinomial logistic regression on its inputs:

        min over (W, b) of  Σ_v w(y_v) (− log softmax(W f_v + b)(y_v)) / Σ_v w(y_v)  +  λ (|W|² + |b|²)

    f_v are the standardised features of voxel v. Of a class no more than 500 voxels a window are taken, each
    for as many as it stands for. λ = 0.001 keeps a class that none of the windows shows below about one per cent.

    Args:
        network: ends in `layer`; nothing else of it changes.
        layer: see `output_layer`.
        samples: "image" (C, X, Y, Z) and "label" (1, X, Y, Z); voxels of the label `IGNORED` do not count.
        precision: of the forward passes, Lightning's word.
        weights: w, one a class, background first; None for 1.
    """
    was_training = network.training
    network.eval()
    try:
        parts = [_features(network, layer, sample, precision) for sample in samples]
    finally:
        network.train(was_training)
    x, y, count = (torch.cat(part) for part in zip(*parts, strict=True))
    if not len(y):  # nothing is labelled
        return
    if weights is not None:
        count = count * torch.tensor(list(weights), dtype=count.dtype)[y]
    weight, bias = _regression(x, y, count / count.sum(), layer.out_channels)
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        layer.bias.copy_(bias)  # type: ignore[union-attr]


def _regression(x: Tensor, y: Tensor, share: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights (classes, n) and biases for features x (voxels, n), classes y and each voxel's share of the loss."""
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x = torch.cat([(x - mean) / deviation, torch.ones_like(x[:, :1])], dim=1)
    w = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logarithms = torch.log_softmax(x @ w.T, dim=1).gather(1, y[:, None])[:, 0]
        value = _SHRINKAGE * w.square().sum() - (share * logarithms).sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight = w.detach()[:, :-1] / deviation
    return weight, w.detach()[:, -1] - weight @ mean


@torch.no_grad()
def _features(
    network: nn.Module, layer: nn.Conv3d, sample: Mapping[str, Any], precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (voxels, n), classes, and for how many voxels each stands, of a window's chosen voxels."""
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    image = sample["image"].as_subclass(Tensor)[None].to(layer.weight.device)
    try:
        with autocast(precision, image.device):
            network(image)
    finally:
        handle.remove()
    classes = sample["label"].as_subclass(Tensor).flatten().long()
    chosen, counts = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.float64)]
    for value in classes.unique():
        where = (classes == value).nonzero()[:, 0]
        taken = torch.linspace(0, len(where) - 1, min(len(where), _VOXELS)).round().long()
        if value != IGNORED:
            chosen.append(where[taken])
            counts.append(torch.full(taken.shape, len(where) / len(taken), dtype=torch.float64))
    index = torch.cat(chosen)
    features = inputs[0][0].flatten(1)[:, index.to(image.device)]
    return features.T.double().cpu(), classes[index], torch.cat(counts)
