"""Every mistake that a person makes at the command line ends in one clear line and exit code 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs import TINY, run_script

from tcurlora_seg.data.simulate import simulate

LORA = "tcurlora_seg.adapters.lora.LoRA"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lpba40")
    simulate("lpba40", root, subjects=7, seed=0, spacing=8.0)
    return root


@pytest.fixture
def root(cohort: Path, tmp_path: Path) -> Path:
    """A cohort of one's own to break."""
    return Path(shutil.copytree(cohort, tmp_path / "data"))


@pytest.fixture
def fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """A function that runs `train`, requires failure in at most two lines, and returns what was printed."""

    def run(*arguments: str, script: str = "train", defaults: tuple[str, ...] = TINY) -> str:
        outputs = (f"outputs={tmp_path}", "test=null") if script == "train" else ()
        assert run_script(script, *defaults, *outputs, *arguments, monkeypatch=monkeypatch) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "Traceback" not in error
        assert len(error.strip().splitlines()) <= 2
        assert not list(tmp_path.rglob("model.safetensors"))
        return error

    return run


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("dataset.root=/nowhere", r"/nowhere.*LONI.*prepare_data\.py dataset=lpba40 .*simulate="),
        ("adapter.rnk=4", r"no key 'adapter\.rnk'; did you mean 'adapter\.rank'"),
        ("trainer.max_step=3", r"no key 'trainer\.max_step'; did you mean 'trainer\.max_steps'"),
        ("adpter=lora", r"'adpter'; did you mean 'adapter'"),
        ("adapter=lra", r"adapter=lra does not exist; choose from .*lora"),
        ("+adapter.foo=1", r"no key 'adapter\.foo'"),
        ("+dataset.foo=1", r"no key 'dataset\.foo'.*it takes root, task"),
        ("rank", r"'rank'"),
        ("trainer.max_steps=many", r"trainer\.max_steps='many'.*whole number"),
        ("trainer.max_steps=0", r"trainer\.max_steps=0"),
        ("seed=x", r"seed='x'.*whole number"),
        ("adapter.rank=two", r"rank='two'.*int"),
        ("adapter.rank=0", r"rank=0 is not possible.*1 to 24"),
        ("adapter.rank=25", r"rank=25 is not possible.*1 to 24"),
        ("adapter.stacks.up.roles=[upp]", r"unknown role 'upp': choose from q, k, v, qkv, o, up, down"),
        ("adapter.stacks.up.roles=[q]", r"both adapt rows of vit\.blocks\.0\.attn\.qkv"),
        ("adapter=dora adapter.rank=25", r"rank=25 is not possible.*1 to 24"),
        ("+adapter.stacks.up.rank=25", r"rank=25 is not possible.*1 to 24"),
        ("+adapter.stacks.up.rank=two", r"adapter\.stacks\.up\.rank='two' .*a whole number"),
        ("adapter.stacks.up.roles=[norm1]", r"stacks\.up: TCURLoRA adapts matrices, but norm1 are the vectors"),
        ("+adapter.stacks.more={roles:[down]}", r"stack 'down' .*and stack 'more'|stack 'more' .*and stack 'down'"),
        (f"+adapter.stacks.up.method={{_target_:{LORA},rnk:2}}", r"no key 'adapter\.stacks\.up\.method\.rnk'.*did you"),
        (f"+adapter.stacks.up.method={{_target_:{LORA}x}}", r"_target_ .*LoRAx: .*has no LoRAx"),
        ("+adapter.stacks.up.method={rank:2}", r"adapter\.stacks\.up has no method"),
        ("adapter=adalora adapter.rank=8 adapter.method.initial_rank=4", r"initial_rank=4: choose rank=8 to 24"),
        ("adapter=adalora adapter.rank=8 adapter.method.warmup=0.9", r"warmup=0\.9, final=0\.5"),
        ("adapter.blocks=[12]", r"blocks=\[12\].*0 to 11"),
        ("model.img_size=[60,64,64]", r"model\.img_size=\[60, 64, 64\].*multiple of 16"),
        ("model.num_heads=5", r"hidden_size=24 must be a multiple of model\.num_heads=5"),
        ("pretrained=/nowhere.pt", r"pretrained=/nowhere\.pt is not a file"),
        ("pretrained=builtin", r"unetr_small\.safetensors does not fit the network"),
        ("adapter.trainable=[decodr*.**]", r"'decodr\*\.\*\*' matches no parameter"),
        ("adapter.trainable=[vit.**]", r"would train vit\.blocks.*an adapter needs it frozen"),
        ("split.scheme=halves", r"split\.scheme=halves"),
        ("split.scheme=shots split.shots=7", r"split\.shots=7"),
        ("split.validation=9", r"split\.validation=9"),
        ("training.patience=3", r"training\.patience=3 needs.*split\.validation"),
        ("dataset.task=brain", r"dataset\.task=brain.*hippocampus"),
        ("training.loss=l2", r"training\.loss='l2'.*dice_ce"),
        ("resume=/nowhere", r"resume=/nowhere is no run directory"),
        ("test=all", r"test=all: choose train, val or test"),
    ],
)
def test_a_wrong_argument(cohort: Path, fails: Callable[..., str], argument: str, expected: str) -> None:
    assert_matches(fails(f"dataset.root={cohort}", *argument.split()), expected)


def assert_matches(text: str, expected: str) -> None:
    import re

    assert re.search(expected, text, re.DOTALL), text


def test_a_patient_in_two_splits(root: Path, fails: Callable[..., str]) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    for case in manifest["cases"][:2]:
        case["patient"] = "one"
    ids = [case["id"] for case in manifest["cases"]]
    manifest["splits"] = {"mine": {"train": ids[:1], "val": [], "test": ids[1:]}}
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert_matches(fails(f"dataset.root={root}", "split.scheme=mine"), r"patient one is both in train and in test")


def test_a_label_without_image(root: Path, fails: Callable[..., str]) -> None:
    (root / "manifest.json").unlink()
    for path in (root / "LPBA40/delineation_space/S03").glob("*skullstripped*"):
        path.unlink()
    assert_matches(fails(f"dataset.root={root}"), r"S03.*label without an image")


def test_image_and_label_of_different_shape(root: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    simulate("lpba40", tmp_path / "finer", subjects=1, seed=0, spacing=7.0)
    for path in (tmp_path / "finer/LPBA40/delineation_space/S01").glob("*label*"):
        shutil.copy(path, root / "LPBA40/delineation_space/S01" / path.name)
    assert_matches(fails(f"dataset.root={root}"), r"S01.*shape")


def test_a_truncated_image(root: Path, fails: Callable[..., str]) -> None:
    path = root / "LPBA40/delineation_space/S01/S01.delineation.skullstripped.img.gz"
    path.write_bytes(path.read_bytes()[:500])
    assert_matches(fails(f"dataset.root={root}", "split.scheme=shots", "split.shots=6"), r"S01.*cannot be read")


@pytest.mark.parametrize("kind", ["truncated.safetensors", "truncated.pt", "other.pt"])
def test_unusable_pretrained_weights(cohort: Path, tmp_path: Path, fails: Callable[..., str], kind: str) -> None:
    path = tmp_path / kind
    if kind == "other.pt":
        torch.save({"conv.weight": torch.zeros(2, 2)}, path)
    else:
        whole = Path("tcurlora_seg/assets/unetr_small.safetensors")
        torch.save(torch.zeros(1000), path) if path.suffix == ".pt" else shutil.copy(whole, path)
        path.write_bytes(path.read_bytes()[:600])
    error = fails(f"dataset.root={cohort}", f"pretrained={path}")
    assert_matches(error, rf"{kind}.*" + ("is missing|does not fit" if kind == "other.pt" else "damaged"))


def test_a_run_on_another_base_and_a_folder_that_is_no_run(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    runs = tmp_path.parent / f"{tmp_path.name}_runs"
    for seed in (0, 1):
        folders = (f"dataset.root={cohort}", f"outputs={runs}", f"output={runs / str(seed)}")
        assert run_script("train", *TINY, *folders, "test=null", f"seed={seed}", monkeypatch=monkeypatch) == 0
    bases = {path.stem: path for path in (runs / "bases").iterdir()}
    used = (runs / "0" / "config.yaml").read_text()
    (other,) = (path for name, path in bases.items() if name not in used)
    error = fails(f"checkpoint={runs / '0'}", f"pretrained={other}", script="evaluate", defaults=())
    assert_matches(error, r"was trained on the base [0-9a-f]{64}, but this network's base is [0-9a-f]{64}")
    assert_matches(fails(f"checkpoint={tmp_path}", script="evaluate", defaults=()), r"finished run: it has no config")
    assert_matches(fails(script="evaluate", defaults=()), r"a value is needed: checkpoint=")
    assert_matches(
        fails(f"checkpoint={runs / '0'}", "adapter.rank=3", script="evaluate", defaults=()), r"no key 'adapter\.rank'"
    )


def test_a_folder_with_other_things_in_it_is_not_written_to(
    cohort: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    error = fails(f"dataset.root={cohort}", f"output={tmp_path / 'mine'}")
    assert_matches(error, r"mine is not empty")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
