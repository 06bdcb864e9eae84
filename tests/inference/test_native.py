"""From the prepared grid back to the file's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import Volume, prepare_image
from tcurlora_seg.data.task import Task
from tcurlora_seg.inference.native import native_probabilities, segment
from tcurlora_seg.inference.windows import Predictor

TUMOUR = Task(
    "subregions", {1: (1,), 2: (2,), 3: (4,)}, {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing": (3,)}
)


class Ramp(torch.nn.Module):
    """Three smooth classes, which depend on the intensity alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-(x**2), x, -x], 1) * self.scale


@pytest.mark.parametrize("spacing", [None, [2.0, 1.5, 1.0]])
def test_a_label_map_is_the_most_probable_class_on_the_files_grid(spacing: list[float] | None) -> None:
    """Class by class gives what all classes at once give; what was cropped away is background."""
    voxels = torch.zeros(1, 14, 12, 10)
    voxels[:, 3:12, 2:11, 1:9] = 100 + 50 * torch.rand(1, 9, 9, 8, generator=torch.Generator().manual_seed(0))
    preparation = Preparation(spacing=spacing)
    volume = Volume("a", voxels[0].numpy(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    case = prepare_image([volume], preparation=preparation, spacing=None, case="a")
    image = case.image
    predictors = [Predictor(Ramp(), window=(16, 16, 16), classes=3)]
    label, _, found = segment(predictors, case, TUMOUR, keep=True)
    alone, prepared, nothing = segment(predictors, case, TUMOUR)
    np.testing.assert_array_equal(label, alone)
    assert nothing is None and found is not None and (len(np.unique(label)) == 3)
    np.testing.assert_array_equal(prepared, found.argmax(0).numpy())
    at_once = preparation.invert(found, image, nearest=False)
    np.testing.assert_array_equal(label, at_once.argmax(0).numpy())
    probabilities = native_probabilities(found, image, preparation)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(probabilities[..., 1:], at_once[1:].movedim(0, -1).numpy(), atol=1e-6)
    assert (probabilities[0, 0, 0] == [1, 0, 0]).all()
