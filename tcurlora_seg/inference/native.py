"""Label maps and probabilities on the file's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from torch import Tensor

from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import PreparedImage
from tcurlora_seg.data.task import Task
from tcurlora_seg.inference.pieces import NOTHING, Clearing, clear_pieces
from tcurlora_seg.inference.second_look import look_again
from tcurlora_seg.inference.windows import Predictor, labels, probabilities


class Segmentation(NamedTuple):
    """Segmentation of one case.

    Attributes:
        native: class indices (X, Y, Z) on the file's grid, without the pieces that `clearing` removes.
        prepared: class indices (X, Y, Z) on the prepared grid, with all pieces.
        probabilities: (K, X, Y, Z) float32 on the prepared grid, or None.
    """

    native: NDArray[np.uint8]
    prepared: NDArray[np.uint8]
    probabilities: Tensor | None


def segment(
    predictors: Sequence[Predictor],
    case: PreparedImage,
    task: Task,
    clearing: Clearing = NOTHING,
    *,
    keep: bool = False,
) -> Segmentation:
    """Segmentation of a prepared case.

    Where the preparation resamples, probabilities are resampled back before the largest is taken, which keeps edges
    smooth. Where it only turns and crops, the label map is turned back, and probabilities are held whole
    only if they are kept, or if the first predictor asks for a second look.

    Args:
        predictors: an ensemble; their probabilities are averaged.
        case: the case.
        task: the meaning of its classes.
        clearing: rules for pieces.
        keep: whether to return the probabilities, too.
    """
    image, preparation = case.image, case.preparation
    twice = predictors[0].second_look
    if preparation.spacing is None and not keep and not twice:
        found, prepared = None, labels(predictors, image)
    else:
        found = probabilities(predictors, image)
        found = look_again(predictors, image, found) if twice else found
        prepared = found.max(dim=0).indices.to(torch.uint8)
    if preparation.spacing is None:
        native = preparation.invert(prepared[None], image, nearest=True)[0].to(torch.uint8)
    else:
        assert found is not None
        native = _most_probable(found, image, preparation)
    cleared = clear_pieces(native.numpy(), task, voxel_sizes(case.affine), clearing, case.case)
    return Segmentation(cleared, prepared.numpy(), found if keep else None)


def _most_probable(found: Tensor, image: MetaTensor, preparation: Preparation) -> Tensor:
    """Most probable class on the file's grid, a class at a time, since all may not fit in memory."""
    largest = preparation.invert(found[:1], image, nearest=False)[0]
    winner = torch.zeros(largest.shape, dtype=torch.uint8)
    for index in range(1, len(found)):
        values = preparation.invert(found[index : index + 1], image, nearest=False)[0]
        better = values > largest
        winner[better], largest[better] = index, values[better]
    return winner


def native_probabilities(found: Tensor, image: MetaTensor, preparation: Preparation) -> NDArray[np.float32]:
    """Probabilities (X, Y, Z, K) on the file's grid; the cropped margin is background.

    Args:
        found: (K, X, Y, Z) on the prepared grid.
        image: the prepared image.
        preparation: that of the image.
    """
    result: NDArray[np.float32] | None = None
    for index in range(1, len(found)):
        values = preparation.invert(found[index : index + 1], image, nearest=False)[0].numpy()
        if result is None:
            result = np.zeros((*values.shape, len(found)), dtype=np.float32)
        result[..., index] = values
    assert result is not None
    result[..., 0] = np.clip(1 - result[..., 1:].sum(-1), 0, 1)
    return result
