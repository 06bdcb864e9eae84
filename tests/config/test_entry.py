from __future__ import annotations

import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from programs import SCRIPTS, run_script

from tcurlora_seg.config.entry import expand_home, quote_path
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
    assert "  experiment: few_shot, leave_one_out, mild, paper_eadc_adni" in printed and "name: lora" in printed


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


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("dataset.root=~/data", "dataset.root='~/data'"),
        ("+output=~", "+output='~'"),
        ("root=/data/a=b (2)", "root='/data/a=b (2)'"),
        ("root=../it's/ü%", "root='../it\\'s/ü%'"),
        ("root=q_ü/Köpfe.nii.gz", "root='q_ü/Köpfe.nii.gz'"),
        ("root=/data/My Folder", "root=/data/My Folder"),  # Hydra reads it
        ("root=/data/a,b", "root=/data/a,b"),  # a sweep
        ("root=~/a,~/b", "root=~/a,~/b"),
        ("model={a:1", "model={a:1"),
        ("-m", "-m"),
    ],
)
def test_paths_that_are_no_grammar_are_quoted(argument, given):
    assert quote_path(argument) == given


def test_the_home_directory_takes_the_place_of_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = OmegaConf.create({"root": "~/a", "runs": ["~", "b~"], "inner": {"root": "${root}", "x": "~*.q"}})
    expand_home(config)
    assert config == {
        "root": "/home/me/a", "runs": ["/home/me", "b~"], "inner": {"root": "/home/me/a", "x": "~*.q"}
    }  # fmt: skip


@pytest.mark.parametrize("argument", ["dataset.root=~/nowhere (1)", "dataset.root='~/nowhere (1)'"])
def test_a_tilde_is_understood_from_the_command_line(argument, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_script("train", argument, monkeypatch=monkeypatch) == 1
    assert f"dataset.root={tmp_path}/nowhere (1) does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("dataset.root=a;b", "dataset.root=a;b cannot be read: spaces, commas, quotes, brackets, = and ~ mean"),
        ("dataset.classes={anterior:", "divides at spaces, so quote the whole: 'dataset.classes={anterior: ...'"),
        ("dataset.root=[/a", "two kinds of quotes: 'dataset.root=\"[/a\"'"),
        ("dataset.classes={Größe: 1}", "in lists and mappings Hydra knows no letters but a to z"),
        ("dataset.root=/a,/b", "a comma divides the values of a sweep, which needs -m; one text is written"),
    ],
)
def test_what_hydra_cannot_read_is_told_with_the_way_to_write_it(argument, words, monkeypatch, capsys):
    assert run_script("train", argument, monkeypatch=monkeypatch) == 1
    told = capsys.readouterr().err
    assert words in told and len(told.splitlines()) == 1


def test_suggestions_are_of_the_chosen_group(monkeypatch, capsys):
    assert run_script("train", "dataset=folder", "dataset.clases={a: [1]}", monkeypatch=monkeypatch) == 1
    assert "there is no key 'dataset.clases'; did you mean 'dataset.classes'?" in capsys.readouterr().err
