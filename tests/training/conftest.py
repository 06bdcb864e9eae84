"""The cohort that the tests of training share: whole runs on it take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcurlora_seg.data.simulate import simulate


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight simulated subjects in voxels of 8 mm, not to be changed."""
    folder = tmp_path_factory.mktemp("lpba40")
    simulate("lpba40", folder, subjects=8, seed=0, spacing=8.0)
    return folder
