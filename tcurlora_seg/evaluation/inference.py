"""From a prepared volume to class probabilities by a sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn


class Predictor:
    """Class probabilities of whole volumes.

    Windows overlap and are blended with a Gaussian weight, so that no seam is seen; a volume smaller than the window
    is padded and cropped back. The softmax is taken once, after blending the logits.

    Args:
        network: maps (batch, channels, *window) to logits (batch, classes, *window).
        window: side lengths of the window in voxels.
        overlap: share of the window by which neighbours overlap.
        batch_size: windows per forward pass.
        mirror_axes: spatial axes along which mirrored copies are averaged; empty for none.
        mirror_pairs: pairs of classes that change places when axis 0 (left-right in RAS) is mirrored.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        window: Sequence[int],
        overlap: float = 0.5,
        batch_size: int = 4,
        mirror_axes: Sequence[int] = (),
        mirror_pairs: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.network, self.window, self.overlap, self.batch_size = network, tuple(window), overlap, batch_size
        self.mirror_axes, self.mirror_pairs = tuple(mirror_axes), tuple(mirror_pairs)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """Map a prepared image (channels, X, Y, Z) to probabilities (classes, X, Y, Z) in float32."""
        parameter = next(self.network.parameters())
        was_training = self.network.training
        self.network.eval()
        try:
            batch = torch.as_tensor(image).as_subclass(Tensor).to(parameter)[None]
            subsets = list(chain.from_iterable(
                combinations(self.mirror_axes, n) for n in range(len(self.mirror_axes) + 1)
            ))  # fmt: skip
            total = torch.stack([self._mirrored(batch, axes) for axes in subsets]).sum(0)
            return total[0] / len(subsets)
        finally:
            self.network.train(was_training)

    def _mirrored(self, batch: Tensor, axes: tuple[int, ...]) -> Tensor:
        dims = [axis + 2 for axis in axes]
        logits = sliding_window_inference(
            batch.flip(dims), self.window, self.batch_size, self.network, self.overlap, mode="gaussian"
        )
        probabilities = torch.softmax(torch.as_tensor(logits).float(), dim=1).flip(dims)
        if 0 in axes:
            order = list(range(probabilities.shape[1]))
            for a, b in self.mirror_pairs:
                order[a], order[b] = b, a
            probabilities = probabilities[:, order]
        return probabilities
