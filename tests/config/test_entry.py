from __future__ import annotations

import os
import subprocess
import sys

import pytest
from programs import SCRIPTS, run_script

from tcurlora_seg.config.paths import config_folder


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_help_says_what_a_program_is_for_its_groups_and_its_keys(name, monkeypatch, capsys):
    assert run_script(name, "--help", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    first = (config_folder() / f"{name}.yaml").read_text().splitlines()[0]
    assert printed.startswith(first.removeprefix("# ")) and "Keys, set with key=value" in printed


def test_help_lists_every_group_and_follows_the_choice(monkeypatch, capsys):
    run_script("train", "--help", "adapter=lora", monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert "  experiment: few_shot, leave_one_out, paper_eadc_adni" in printed and "name: lora" in printed


def test_a_mistake_beside_help_is_told(monkeypatch, capsys):
    assert run_script("train", "--help", "adapter=nope", monkeypatch=monkeypatch) == 1
    assert "adapter=nope does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["model.hidden_size=770"], ["optimizr=x"]])
def test_nothing_heavy_is_imported_for_help_configuration_or_mistakes(arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPTS / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'monai', 'lightning', 'numpy', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_mistake_is_told_while_a_debugger_or_coverage_looks_on():
    """OmegaConf then chains its errors to a ring."""
    command = [sys.executable, SCRIPTS / "train.py", "trainer={max_stps:3}"]
    looked_on = {**os.environ, "OC_CAUSE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=looked_on, check=False)
    assert done.returncode == 1 and "did you mean 'trainer.max_steps'" in done.stderr
