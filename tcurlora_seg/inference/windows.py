"""Sliding-window inference: class probabilities or a label map of a prepared volume, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from tcurlora_seg.config.checks import check_windows
from tcurlora_seg.inference.places import placed, places
from tcurlora_seg.models.precision import autocast, resolve_precision

_SLAB_BYTES = 2**30


def unwatched(progress: object) -> None:
    """Callback of a predictor while nobody watches."""


class Predictor:
    """Sliding-window inference of one network.

    Overlapping windows are blended with a Gaussian weight, so that no seam is seen. A volume smaller than the window
    is padded and cropped back; the mean over several places in the window takes what overlap is to a larger one. The
    softmax comes once a copy, after blending the logits.

    Args:
        network: maps (batch, channels, *window) to logits (batch, classes, *window).
        window: side lengths of the window in voxels.
        classes: number of output channels, by which slabs are sized.
        overlap: share of the window by which neighbours overlap, 0 to below 1.
        batch_size: windows per forward pass.
        shift: voxels by which a volume is moved along the axes on which the window has room, see `places`; 0 for none.
        mirror_axes: spatial axes of the mirrored copies that are averaged, in all combinations; empty for none.
        mirror_pairs: pairs of classes that swap when axis 0 (left-right in RAS) is mirrored.
        second_look: whether a head is segmented once more without its skull, see `look_again`; not by a call of this.
        precision: `32-true`, `bf16-mixed`, or `auto`, which is bf16-mixed on a GPU that computes in it and 32-true
            elsewhere. Logits are blended in float32.

    Attributes:
        order: the network's class for each class of the result; None for its own order.
        tick: called after each forward pass with its number of windows.
        begin: called before the first window of a volume with its shape (X, Y, Z).

    Raises:
        UserError: an unknown precision, or an overlap, shift or batch size that cannot be.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        window: Sequence[int],
        classes: int = 2,
        overlap: float = 0.5,
        batch_size: int = 4,
        shift: int = 0,
        mirror_axes: Sequence[int] = (),
        mirror_pairs: Sequence[tuple[int, int]] = (),
        second_look: bool = False,
        precision: str = "auto",
    ) -> None:
        check_windows(overlap=overlap, batch_size=batch_size, shift=shift, precision=precision)
        self.precision, self.shift, self.second_look = precision, shift, second_look
        self.network, self.window, self.classes = network, tuple(window), classes
        self.overlap, self.batch_size = overlap, batch_size
        self.mirror_axes, self.mirror_pairs = tuple(mirror_axes), tuple(mirror_pairs)
        self.order: Sequence[int] | None = None
        self.begin: Callable[[Sequence[int]], None] = unwatched
        self.tick: Callable[[int], None] = unwatched

    @property
    def resolved(self) -> str:
        """Precision, with `auto` resolved for the network's device."""
        device = next(self.network.parameters()).device
        if self.precision == "auto" and device.type != "cuda":
            return "32-true"
        return resolve_precision(self.precision, device)

    def __call__(self, image: Tensor) -> Tensor:
        """Probabilities (classes, X, Y, Z) of a prepared image (channels, X, Y, Z), float32 in main memory."""
        return probabilities([self], image)

    @torch.inference_mode()
    def rows(self, image: Tensor, first: int, last: int) -> Tensor:
        """Probabilities of some rows of axis 0, on the network's device, from the same windows as for the whole volume.

        Args:
            image: (channels, X, Y, Z).
            first: the first row.
            last: the row after the last one.
        """
        image = torch.as_tensor(image).as_subclass(Tensor).to(next(self.network.parameters()))
        was_training = self.network.training
        self.network.eval()
        try:
            total, count = None, 0
            for axes in self._mirrors():
                turned = image.flip([axis + 1 for axis in axes]) if axes else image
                start, stop = (image.shape[1] - last, image.shape[1] - first) if 0 in axes else (first, last)
                for view, (rows, *inside) in placed(turned, self.window, self.shift):
                    found = self._logits(view, rows.start + start, rows.start + stop)[:, :, inside[0], inside[1]]
                    _softmax(found)
                    total = found if total is None else self._add(total, found, axes)
                    count += 1
            assert total is not None
            total.div_(count)
            return total if self.order is None or list(self.order) == sorted(self.order) else total[list(self.order)]
        finally:
            self.network.train(was_training)

    def _mirrors(self) -> list[tuple[int, ...]]:
        """Axes of each mirrored copy, first none."""
        return [axes for n in range(len(self.mirror_axes) + 1) for axes in combinations(self.mirror_axes, n)]

    def _add(self, total: Tensor, found: Tensor, axes: tuple[int, ...]) -> Tensor:
        """`total` with the probabilities of a copy mirrored along `axes`, mirrored back, added class by class."""
        swapped = list(range(len(total)))
        for a, b in self.mirror_pairs if 0 in axes else ():
            swapped[a], swapped[b] = b, a
        for own, other in enumerate(swapped):
            total[own] += found[other].flip(axes) if axes else found[other]
        return total

    def _logits(self, image: Tensor, first: int, last: int) -> Tensor:
        """Blended logits (classes, last - first, Y, Z) of rows `first` to `last`."""
        start, stop = self._reach(image.shape[1], first, last)
        part = image[None, :, start:stop]

        def forward(windows: Tensor) -> Tensor:
            result = self.network(windows).to(windows.dtype)
            self.tick(len(windows))
            return result

        with autocast(self.resolved, image.device):
            logits = sliding_window_inference(
                part, self.window, self.batch_size, forward, self.overlap, mode="gaussian"
            )
        return torch.as_tensor(logits)[0, :, first - start : last - start].float()

    def _reach(self, size: int, first: int, last: int) -> tuple[int, int]:
        """Rows, of `size`, of all windows that touch rows `first` to `last`."""
        starts = self._starts(size, self.window[0])
        touching = [start for start in starts if start < last and start + self.window[0] > first]
        return touching[0], min(touching[-1] + self.window[0], size)

    def _starts(self, size: int, side: int) -> list[int]:
        """First voxels of the windows along an axis of `size` voxels."""
        if size <= side:
            return [0]
        step = max(1, int(side * (1 - self.overlap)))
        return [places[0].start for places in dense_patch_slices((size,), (side,), (step,))]

    def _windows(self, shape: Sequence[int]) -> int:
        """Number of windows of a volume (X, Y, Z)."""
        return math.prod(len(self._starts(size, side)) for size, side in zip(shape, self.window, strict=True))


def count_windows(predictors: Sequence[Predictor], shape: Sequence[int]) -> int:
    """Number of windows of a volume for all predictors: the sum of their ticks.

    Args:
        predictors: an ensemble.
        shape: (X, Y, Z).
    """
    total = 0
    for predictor in predictors:
        moved = len(places(shape, predictor.window, predictor.shift))
        for rows in _rows(predictors, shape):
            for axes in predictor._mirrors():
                first, last = (shape[0] - rows.stop, shape[0] - rows.start) if 0 in axes else (rows.start, rows.stop)
                start, stop = predictor._reach(shape[0], first, last)
                total += moved * predictor._windows((stop - start, *shape[1:]))
    return total


def probabilities(predictors: Sequence[Predictor], image: Tensor) -> Tensor:
    """Mean probabilities (classes, X, Y, Z) of an ensemble, float32 in main memory.

    Args:
        predictors: the ensemble.
        image: (channels, X, Y, Z).
    """
    result: Tensor | None = None
    for rows, values in _slabs(predictors, image):
        if result is None:
            result = torch.empty((len(values), *image.shape[1:]))
        result[:, rows] = values.cpu()
    assert result is not None
    return result


def labels(predictors: Sequence[Predictor], image: Tensor) -> Tensor:
    """Most probable class of every voxel by an ensemble, uint8 (X, Y, Z). It holds one slab's probabilities at a time.

    Args:
        predictors: the ensemble.
        image: (channels, X, Y, Z).
    """
    result = torch.empty(tuple(image.shape[1:]), dtype=torch.uint8)
    for rows, values in _slabs(predictors, image):
        result[rows] = values.max(dim=0).indices.to(torch.uint8).cpu()  # `argmax` takes ten times as long on a CPU
    return result


def _slabs(predictors: Sequence[Predictor], image: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slabs along axis 0 with their mean probabilities; one slab where those of the whole volume fit.

    A slab is no thinner than the window, since the windows on its edges are computed for both sides.
    """
    predictors[0].begin(image.shape[1:])
    for rows in _rows(predictors, image.shape[1:]):
        with torch.inference_mode():
            total = predictors[0].rows(image, rows.start, rows.stop)
            for predictor in predictors[1:]:
                total += predictor.rows(image, rows.start, rows.stop).to(total.device)
            total /= len(predictors)
        yield rows, total


def _rows(predictors: Sequence[Predictor], shape: Sequence[int]) -> list[slice]:
    """Rows of the slabs of a volume (X, Y, Z)."""
    row_bytes = 4 * predictors[0].classes * shape[1] * shape[2]
    thickness = max(_SLAB_BYTES // row_bytes, *(predictor.window[0] for predictor in predictors))
    return [slice(first, min(first + thickness, shape[0])) for first in range(0, shape[0], thickness)]


def _softmax(logits: Tensor) -> None:
    """Softmax over axis 0 in place: a second copy of fifty-six classes would be the larger part of the memory."""
    logits -= logits.amax(0, keepdim=True)
    logits.exp_()
    logits /= logits.sum(0, keepdim=True)
