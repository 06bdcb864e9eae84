"""The walk in docs/adding.md, as it stands: its files are written, its commands are run."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from programs import run_script

import tcurlora_seg

PAGE = Path(__file__).parents[1] / "docs" / "adding.md"


def test_every_file_and_every_command_of_the_walk_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, text in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        if kind != "sh":
            file = Path(text.split("\n", 1)[0].removeprefix("# "))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            continue
        importlib.invalidate_caches()  # files are new
        for command in text.splitlines():
            word, script, *arguments = shlex.split(command)
            if word == "export":
                assert script == "PYTHONPATH=."
                monkeypatch.syspath_prepend(tmp_path)
            elif script.startswith("scripts/"):
                assert run_script(Path(script).stem, *arguments, monkeypatch=monkeypatch) == 0, capsys.readouterr().err
            else:
                runpy.run_path(script)
    assert json.loads((tmp_path / "outputs/second/metrics.json").read_text())["steps"] == 3
    assert [path.name for path in (tmp_path / "outputs/maps").glob("*.nii.gz")] == ["00_t1.nii.gz"]
    assert (tmp_path / "outputs/small.safetensors").is_file()
    run = tcurlora_seg.load_run("outputs/second", trust=["mine"])
    assert type(run.network).__module__ == "monai.networks.nets.unetr"
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
