from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tcurlora_seg.config.paths import config_folder, options, shipped

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["configs", "data_manifests"])
def test_an_installed_wheel_has_its_own_copy_of_the_folder(name: str) -> None:
    assert shipped(name) == CHECKOUT / name
    wheel = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert name in wheel["include"]
    assert wheel["sources"][name] == f"tcurlora_seg/{name}"


def test_options_are_the_files_of_a_group() -> None:
    assert options("optimizer") == {path.stem: path for path in (config_folder() / "optimizer").iterdir()}
    assert options("no_such_group") == {}
