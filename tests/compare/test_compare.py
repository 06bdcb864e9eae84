"""The program from end to end: its files, what it refuses, and that the same runs give the same bytes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from programs import run_script

from tcurlora_seg.compare import FILES, PAGE


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs the program and gives (exit code, output, errors)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_script("compare", *arguments, monkeypatch=monkeypatch)
        return code, *capsys.readouterr()

    return run


def test_the_same_runs_give_the_same_bytes(
    demo: Path, tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    for name in ("first", "second"):
        code, printed, _ = compare(f"runs={demo / 'runs'}", f"output={tmp_path / name}")
        assert code == 0
    assert "4 runs, 2 methods: open" in printed
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert (tmp_path / "first" / PAGE).stat().st_size < 5e6
    assert (tmp_path / "first" / "comparison.md").read_text(encoding="utf-8") in printed


def test_every_file_tells_that_the_cohort_is_simulated(
    demo: Path, tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    compare(f"runs={demo / 'runs'}", f"output={tmp_path}")
    for name in ("comparison.md", "comparison.tex", PAGE):
        assert "imulated cohort" in (tmp_path / name).read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "comparison.csv")["simulated"].all()
    tests = pd.read_csv(tmp_path / "comparison_tests.csv")
    assert list(tests["measure"]) == ["dice", "hd95_mm"]


def test_missing_the_hard_cases_does_not_win_where_a_distance_stands_for_them(
    make_run: Callable[..., Path], tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    make_run([0.9, 0.9, 0.0], adapter="lora")
    make_run([0.8, 0.8, 0.5], adapter="full")
    hd95 = {}
    for name, more in (("left out", []), ("counted", ["missed_mm=100"])):
        code, printed, _ = compare(f"runs={tmp_path / 'runs'}", f"output={tmp_path / name}", *more)
        assert code == 0
        table = pd.read_csv(tmp_path / name / "comparison.csv").set_index("adapter")
        hd95[name] = table["hd95_mm_mean"]
        assert list(table.loc[["lora", "full"], "missed"]) == [1, 0]
    assert hd95["left out"]["lora"] < hd95["left out"]["full"] < hd95["counted"]["lora"]
    assert "A missed structure has Dice 0 and counts with an HD95 of 100 mm" in printed
    code, _, err = compare(f"runs={tmp_path / 'runs'}", f"output={tmp_path / 'no'}", "missed_mm=0")
    assert code == 1 and "missed_mm=0: expected a distance above 0" in err


def test_a_page_of_real_images_has_no_banner(
    make_run: Callable[..., Path], tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    make_run([0.8, 0.9])
    assert compare(f"runs={tmp_path / 'runs'}", f"output={tmp_path / 'out'}")[0] == 0
    for name in ("comparison.md", "comparison.tex", PAGE):
        assert "imulated" not in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_one_run_makes_a_page_without_tests(
    make_run: Callable[..., Path], tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    run = make_run([0.8])
    code, printed, _ = compare(f"runs={run}", f"output={tmp_path / 'out'}")
    assert code == 0 and "1 runs, 1 methods" in printed and "interval" not in printed
    assert "nothing to test" in (tmp_path / "out" / PAGE).read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "out" / "comparison_tests.csv").empty


def test_the_page_asks_nothing_of_the_network_and_no_text_can_end_its_script(
    demo: Path, tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    compare(f"runs={demo / 'runs'}", f"output={tmp_path}")
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    outside = page.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace, not an address
    assert not re.search(r"https?:|//cdn|@import|url\(|<link[^>]+href=\"(?!data:)|<script[^>]+src", outside)
    assert page.count("</script>") == page.count("<script") == 2
    assert "&lt;/script&gt;" in page  # from the runs' command line


def test_of_many_structures_the_page_tests_the_mean_and_the_file_all(
    make_run: Callable[..., Path], tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    for name in ("lora", "full"):
        make_run({f"s{i}": {"x": 0.5, "y": 0.6} for i in range(8)}, adapter=name)
    compare(f"runs={tmp_path / 'runs'}", f"output={tmp_path / 'out'}")
    page = (tmp_path / "out" / PAGE).read_text(encoding="utf-8").partition("Is a difference more than chance?")[2]
    shown = page.partition("</section>")[0]
    assert "comparison_tests.csv has every structure" in shown
    assert shown.count("<tr>") == 1 + 2
    assert len(pd.read_csv(tmp_path / "out" / "comparison_tests.csv")) == 2 * (1 + 8)


def test_left_out_runs_are_named_on_the_terminal_and_the_page(
    make_run: Callable[..., Path], tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    make_run([0.8])
    (make_run([0.9], seed=1) / "metrics.json").unlink()
    _, printed, _ = compare(f"runs={tmp_path / 'runs'}", f"output={tmp_path / 'out'}")
    assert printed.startswith("left out: ") and "run2 is not finished: it has no metrics.json" in printed
    assert "run2 is not finished" in (tmp_path / "out" / PAGE).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runs=/nowhere"], "runs=/nowhere does not exist"),
        (["cases=some"], "cases=some: choose all or common"),
        (["missed_mm=far"], "missed_mm=far: expected a distance above 0"),
        (["reference=dora"], "reference=dora names no method; there are: lora, rank 4"),
        (["split=val"], "no finished run there"),
        (["refrence=lora"], "no key 'refrence'; did you mean 'reference'"),
        (["output={folder}/file"], "is a file: give a folder"),
        (["output={folder}/mine"], "comparison.csv that is no earlier comparison's"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    make_run: Callable[..., Path], tmp_path: Path, compare: Callable[..., tuple[int, str, str]],
    arguments: list[str], expected: str,
) -> None:  # fmt: skip
    make_run([0.8])
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "comparison.csv").write_text("mine")
    given = {"runs": f"runs={tmp_path / 'runs'}", "output": f"output={tmp_path / 'out'}"}
    given |= {argument.partition("=")[0]: argument.format(folder=tmp_path) for argument in arguments}
    code, _, error = compare(*given.values())
    assert code == 1
    assert error.startswith("error: ") and expected in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "mine" / "comparison.csv").read_text(encoding="utf-8") == "mine"


def test_runs_and_output_are_needed(compare: Callable[..., tuple[int, str, str]]) -> None:
    assert "runs=" in compare("output=x")[2]
    assert "output=" in compare("runs=x")[2]


def test_an_earlier_comparison_is_replaced_and_other_files_stay(
    make_run: Callable[..., Path], tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    make_run([0.8])
    arguments = f"runs={tmp_path / 'runs'}", f"output={tmp_path / 'out'}"
    compare(*arguments)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    make_run([0.9], adapter="full")
    assert compare(*arguments)[0] == 0
    assert len(pd.read_csv(tmp_path / "out" / "comparison.csv")) == 2
    assert (tmp_path / "out" / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_runs_are_taken_as_a_list(
    make_run: Callable[..., Path], tmp_path: Path, compare: Callable[..., tuple[int, str, str]]
) -> None:
    first, second = make_run([0.8]), make_run([0.7], adapter="full")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    code, printed, _ = compare(f"runs=[{first},{second}]", f"output={tmp_path / 'out'}", "reference=full")
    assert code == 0 and "2 runs, 2 methods" in printed
    tests = pd.read_csv(tmp_path / "out" / "comparison_tests.csv")
    assert (tests["a"] == "full, rank 4").all() and tests["difference"].iloc[0] == pytest.approx(-0.1)
