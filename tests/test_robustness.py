"""Every bad input ends in one clear line and exit code 1 and harms nothing; twenty stand in docs/robustness.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from robustness import ENTRIES, SHOWN, VOLUMES, Entry, Lab, Volume

LIST = Path(__file__).resolve().parent.parent / "docs" / "robustness.md"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab").resolve())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.group}: {entry.title}")
def test_a_bad_input_is_one_clear_line(lab: Lab, entry: Entry) -> None:
    line = lab.try_out(entry)
    assert line.startswith("error: ")
    if entry.title in SHOWN:
        assert line.replace("\n", "\n  ") in LIST.read_text(encoding="utf-8")


@pytest.mark.parametrize("volume", VOLUMES, ids=lambda volume: volume.name)
def test_a_bad_volume_among_sound_ones_is_named(lab: Lab, volume: Volume) -> None:
    assert re.search(volume.words, lab.volumes[volume.name]) and volume.name in lab.volumes[volume.name]


def test_the_page_has_those_that_matter_most() -> None:
    listed = re.findall(r"^- (.*)$", LIST.read_text(encoding="utf-8"), re.MULTILINE)
    assert {*listed} == SHOWN <= {entry.title for entry in [*ENTRIES, *VOLUMES]}
    assert len(listed) == len(SHOWN) and len([*ENTRIES, *VOLUMES]) >= 60
