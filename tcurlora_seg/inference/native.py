"""From the prepared grid back to the file's own: label maps, probabilities, and small pieces cleared away."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import PreparedImage
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.windows import Predictor, labels, probabilities

_log = logging.getLogger(__name__)


class Segmentation(NamedTuple):
    """What networks found in one case.

    Attributes:
        native: class indices (X, Y, Z) on the file's grid, small pieces removed.
        prepared: class indices (X, Y, Z) on the prepared grid, small pieces and all.
        probabilities: (K, X, Y, Z) float32 on the prepared grid, or None.
    """

    native: NDArray[np.uint8]
    prepared: NDArray[np.uint8]
    probabilities: Tensor | None


def segment(
    predictors: Sequence[Predictor],
    case: PreparedImage,
    task: Task,
    minimum_ml: float | Mapping[str, float] | None = None,
    *,
    keep: bool = False,
) -> Segmentation:
    """Segment a prepared case.

    Where the preparation resamples, probabilities are brought back before the largest is taken, which keeps edges
    smooth; where it only turns and crops, the label map itself is, and probabilities are never held whole.

    Args:
        predictors: their probabilities are averaged.
        case: the case.
        task: what its classes make up.
        minimum_ml: see `remove_small`.
        keep: whether the probabilities are wanted, too.
    """
    image, preparation = case.image, case.preparation
    if preparation.spacing is None and not keep:
        found, prepared = None, labels(predictors, image)
    else:
        found = probabilities(predictors, image)
        prepared = found.argmax(0).to(torch.uint8)
    if preparation.spacing is None:
        native = preparation.invert(prepared[None], image, nearest=True)[0].to(torch.uint8)
    else:
        assert found is not None
        native = _most_probable(found, image, preparation)
    cleared = remove_small(native.numpy(), task, voxel_sizes(case.affine), minimum_ml, case.case)
    return Segmentation(cleared, prepared.numpy(), found if keep else None)


def _most_probable(found: Tensor, image: MetaTensor, preparation: Preparation) -> Tensor:
    """The class of the largest probability on the file's grid, a class at a time, since all may not fit in memory."""
    largest = preparation.invert(found[:1], image, nearest=False)[0]
    winner = torch.zeros(largest.shape, dtype=torch.uint8)
    for index in range(1, len(found)):
        values = preparation.invert(found[index : index + 1], image, nearest=False)[0]
        better = values > largest
        winner[better], largest[better] = index, values[better]
    return winner


def native_probabilities(found: Tensor, image: MetaTensor, preparation: Preparation) -> NDArray[np.float32]:
    """Probabilities (X, Y, Z, K) on the file's grid; what was cropped away is background."""
    result: NDArray[np.float32] | None = None
    for index in range(1, len(found)):
        values = preparation.invert(found[index : index + 1], image, nearest=False)[0].numpy()
        if result is None:
            result = np.zeros((*values.shape, len(found)), dtype=np.float32)
        result[..., index] = values
    assert result is not None
    result[..., 0] = np.clip(1 - result[..., 1:].sum(-1), 0, 1)
    return result


def remove_small(
    segmentation: NDArray[np.uint8],
    task: Task,
    spacing: Sequence[float],
    minimum_ml: float | Mapping[str, float] | None,
    source: str,
) -> NDArray[np.uint8]:
    """A copy without the pieces of a structure that are smaller than `minimum_ml`, which become background.

    A piece is a set of voxels connected by faces, edges or corners (26 neighbours).

    Args:
        segmentation: class indices (X, Y, Z).
        task: what its classes make up.
        spacing: voxel size along each axis in mm.
        minimum_ml: structure -> volume; a number stands for every structure that is no part of a larger one; None
            removes nothing.
        source: the case, for the warning when all of a structure goes.

    Raises:
        UserError: a structure that the task does not have.
    """
    result, voxel_ml = segmentation.copy(), float(np.prod(spacing)) / 1000.0
    for name, least in minimum_volumes(task, minimum_ml).items():
        mask = np.isin(result, task.structures[name])
        pieces, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        volumes = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * voxel_ml
        small = np.concatenate([[False], volumes < least])
        result[small[pieces]] = 0
        if count and small[1:].all():
            _log.warning(
                "%s: min_component_ml removes all of %s: its largest piece has %.3g ml, less than %g",
                source, name, volumes.max(), least,
            )  # fmt: skip
    return result


def minimum_volumes(task: Task, minimum_ml: Any) -> dict[str, float]:
    """The smallest volume of a piece by structure, see `remove_small`.

    Raises:
        UserError: not a volume, or a structure that the task does not have.
    """
    if minimum_ml is None:
        return {}
    if not isinstance(minimum_ml, Mapping):
        members = {name: set(classes) for name, classes in task.structures.items()}
        minimum_ml = {name: minimum_ml for name, own in members.items() if not any(own < m for m in members.values())}
    for name, least in minimum_ml.items():
        if name not in task.structures:
            known = ", ".join(task.structures)
            raise UserError(f"min_component_ml: {task.name} has no structure {name}; it has {known}")
        if isinstance(least, bool) or not isinstance(least, int | float) or not least >= 0:
            raise UserError(f"min_component_ml={least}: expected a volume in ml, such as 1, or null")
    return {str(name): float(least) for name, least in minimum_ml.items()}
