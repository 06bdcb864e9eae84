from __future__ import annotations

import numpy as np
import pytest

from tcurlora_seg.data.grid import centred_affine
from tcurlora_seg.data.spacing import ras_spacing, read_spacing, training_spacing

SEEN = training_spacing([(1.0, 1.0, 3.0), (0.8, 1.0, 2.0), (1.2, 1.0, 2.5)])


def test_the_range_of_the_training_images_is_covered_with_five_percent_to_spare() -> None:
    assert SEEN.median == (1.0, 1.0, 2.5)
    for spacing in [(0.8, 1.0, 2.0), (1.2, 1.0, 3.0), (0.77, 1.04, 3.1)]:
        assert SEEN.covers(spacing)
    for spacing in [(0.75, 1.0, 2.0), (1.3, 1.0, 2.0), (1.0, 1.0, 1.0), (1.0, 2.5, 1.0)]:
        assert not SEEN.covers(spacing)


def test_what_a_model_file_holds_is_read_back() -> None:
    assert read_spacing(SEEN.as_dict()) == SEEN
    assert read_spacing(None) is None


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
def test_voxel_sizes_follow_the_axes_of_the_body(axes: str) -> None:
    sizes = {"R": 1.0, "L": 1.0, "A": 2.0, "P": 2.0, "S": 3.0, "I": 3.0}
    affine = centred_affine((5, 6, 7), [sizes[code] for code in axes], axes)
    np.testing.assert_allclose(ras_spacing(affine), [1, 2, 3])
