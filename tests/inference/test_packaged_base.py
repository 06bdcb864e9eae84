"""What a newcomer meets first: `predict.py checkpoint=builtin`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tcurlora_seg.config.paths import PACKAGE


@pytest.mark.parametrize("mm", [1, 2])
def test_the_packaged_base_finds_the_hippocampi_of_a_real_head(
    mm: int, tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    """Colin27 around them, which no training has seen; AAL's regions are larger than those of FreeSurfer."""
    head, regions = (
        nib.load(PACKAGE / "assets" / "head" / f"colin27_{name}.nii.gz").slicer[40:140:mm, 70:134:mm, 30:94:mm]
        for name in ("T1", "aal")
    )
    nib.save(head, tmp_path / "head.nii.gz")
    code, out, _ = predict("checkpoint=builtin", f"input={tmp_path / 'head.nii.gz'}", f"output={tmp_path / 'maps'}",
                           "mirror=false", "overlap=0.25", "strict=true")  # fmt: skip
    values = json.loads((tmp_path / "maps" / "labels.json").read_text())["structures"]["hippocampus"]
    assert code == 0 and re.search(r"hippocampus [\d.]+\s+ml", out)
    assert (mm == 1) == ("are resampled to the training images' 1 x 1 x 1 mm, and back" not in out)
    found = np.isin(nib.load(tmp_path / "maps" / "head.nii.gz").dataobj, values)
    expected = np.isin(regions.dataobj, (37, 38))
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.5


def test_the_packaged_base_says_that_noise_is_no_head(
    tmp_path: Path, predict: Callable[..., tuple[int, str, str]]
) -> None:
    noise = np.random.default_rng(0).normal(100, 20, (64, 64, 64)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "noise.nii.gz")
    arguments = ("checkpoint=builtin", f"input={tmp_path / 'noise.nii.gz'}", f"output={tmp_path / 'maps'}")
    code, out, _ = predict(*arguments)
    assert code == 0 and re.search(r"only [\d.]+ (ml|mm³) of the 262 ml that it shows belong to a structure", out)
    code, _, errors = predict(*arguments, "strict=true", "overwrite=true")
    assert code == 1 and "is it another part of the body? (strict=true)" in errors
