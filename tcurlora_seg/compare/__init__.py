"""Comparison of finished runs for `scripts/compare.py`: one table, paired tests and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tcurlora_seg.compare.collect import count_missed, find_runs, newest_only, read_run
from tcurlora_seg.compare.methods import group_methods
from tcurlora_seg.compare.page import GENERATOR, build_page
from tcurlora_seg.compare.significance import compare_pairs
from tcurlora_seg.compare.slices import viewer
from tcurlora_seg.compare.table import latex, markdown, notes, summarise_methods
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path, write_text

PAGE = "comparison.html"
FILES = (PAGE, "comparison.csv", "comparison.md", "comparison.tex", "comparison_tests.csv")


def compare(
    *,
    runs: str | Sequence[str],
    output: str,
    split: str = "test",
    cases: str = "all",
    reference: str | None = None,
    missed_mm: float | None = None,
    root: str | None = None,
    trust: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare finished runs and write `FILES` into `output`. The same runs give the same bytes.

    Args:
        runs: a folder that is searched, a pattern, or several of them.
        output: a folder; of what it holds, only an earlier comparison is replaced.
        split: the folder under `evaluation/` of every run.
        cases: "all", or "common" for those that every run was scored on.
        reference: the only method to test the others against; None tests all pairs.
        missed_mm: see `count_missed`.
        root: data folder for the slices, if it is no longer where the runs had it.
        trust: packages of one's own that the runs' configurations may name, see `check_trusted`.

    Returns:
        The table, see `summarise_methods`.

    Raises:
        UserError: no finished runs, damaged ones, runs that cannot be compared, an output that holds other files of
            these names.
    """
    folder = Path(output).expanduser()
    check_output(folder)
    directories, left_out = find_runs(runs, split)
    read, repeated = newest_only([count_missed(read_run(directory, split), missed_mm) for directory in directories])
    left_out += repeated
    for line in left_out:
        print(f"left out: {line}")
    methods = group_methods(read, cases=cases)
    table, tests = summarise_methods(methods, split), compare_pairs(methods, reference)
    sentences = notes(methods, table, tests, missed_mm)
    shown_cases = viewer(methods, root, trust)
    page = build_page(methods, table, tests, sentences, shown_cases, left_out)
    shown = markdown(table, sentences)
    write_text(folder / PAGE, page)  # first: it is what marks the others as ours
    write_text(folder / "comparison.md", shown)
    write_text(folder / "comparison.tex", latex(table, sentences))
    for name, rows in (("comparison.csv", table), ("comparison_tests.csv", tests)):
        with atomic_path(folder / name) as temporary:
            rows.to_csv(temporary, index=False)
    print(shown)
    if shown_cases["note"]:
        print(shown_cases["note"])
    print(f"{len(read)} runs, {len(methods)} methods: open {folder / PAGE}")
    return table


def check_output(folder: Path) -> None:
    """Check that `folder` holds no files of others that a comparison would overwrite.

    Raises:
        UserError: a file where the folder should be, or files of our names that no comparison wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file: give a folder")
    taken = [name for name in FILES if (folder / name).exists()]
    page = folder / PAGE
    ours = page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:1000]
    if taken and not ours:
        raise UserError(f"output={folder} holds a {taken[0]} that is no earlier comparison's: give another folder")
