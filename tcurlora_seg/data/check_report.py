"""Report of a data folder's check, kept beside the manifest, so that only what changed is looked at again."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tcurlora_seg.data.examine import Examination
from tcurlora_seg.data.fingerprint import Fingerprint
from tcurlora_seg.data.structures import volume_text
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json, write_json

REPORT = "check_report.json"
FORMAT = 1
ALIKE = 3  # cases that are left out for one reason and still have a row each
SHOWN = 40  # rows of the table; the report has all


@dataclass
class CheckReport:
    """The result of one check; as JSON beside the manifest.

    Attributes:
        dataset, task: names.
        root: the folder.
        settings: what else the outcome depends on; with others every case is examined again.
        usable: ids of the cases in the manifest.
        left_out: case id -> why, with the file.
        by_hand: case id -> why a person has excluded it in the manifest.
        skipped: file that belongs to no case -> why.
        files: case id -> fingerprint of its files when they were examined.
        cases: case id -> what its files hold.
        same_labels: case id -> a note, see `same_labels`.
    """

    dataset: str
    task: str
    root: str
    settings: str
    usable: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    by_hand: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    files: dict[str, Fingerprint] = field(default_factory=dict)
    cases: dict[str, Examination] = field(default_factory=dict)
    same_labels: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> CheckReport | None:
        """Report of an earlier check; None where there is none that can be read."""
        try:
            raw: dict[str, Any] = read_json(path)
            if raw.pop("format") != FORMAT:
                return None
            return cls(**{**raw, "cases": {id: Examination(**case) for id, case in raw["cases"].items()}})
        except (UserError, KeyError, TypeError, AttributeError):
            return None


def print_report(report: CheckReport, *, simulated: bool) -> None:
    """Print the table: found, usable, left out and why, skipped and why.

    Args:
        report: of the check.
        simulated: whether the cases are simulated.
    """
    common = _common_folder(report)
    place = Path(report.root, common)
    table = Table(title=f"{report.dataset} / {report.task} in {place}", title_justify="left")
    for heading in ("", "case", "what was found"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "")
    kind = "simulated cases" if simulated else "cases"
    left_out = {**report.left_out, **{id: f"{why} (excluded by hand)" for id, why in report.by_hand.items()}}
    table.add_row("found", str(len(report.usable) + len(left_out)), kind)
    table.add_row("usable", str(len(report.usable)), _describe(report), style="green" if report.usable else "red")
    notes = {id: filter(None, [*report.cases[id].notes, report.same_labels.get(id)]) for id in report.usable}
    noted = {id: line for id, lines in notes.items() if (line := "; ".join(lines))}
    for title, reasons, style in (("left out", left_out, "yellow"), ("noted", noted, "cyan")):
        if reasons:
            table.add_section()
        rows = _alike(reasons)
        for n, (ids, why) in enumerate(rows[:SHOWN]):
            case = f"{ids[0]} and {len(ids) - 1} more" if len(ids) > 1 else ids[0]
            table.add_row(f"{title} ({len(reasons)})" if n == 0 else "", case, _short(why, common), style=style)
        if len(rows) > SHOWN:
            table.add_row("", "...", f"{sum(len(ids) for ids, _ in rows[SHOWN:])} more are in {REPORT}", style=style)
    skipped: dict[str, list[str]] = {}
    for path, why in report.skipped.items():
        skipped.setdefault(why, []).append(_short(path, common))
    if skipped:
        table.add_section()
    for n, (why, paths) in enumerate(skipped.items()):
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        table.add_row(f"skipped ({len(report.skipped)})" if n == 0 else "", "", f"{paths[0]}{more}: {why}", style="dim")
    Console(width=None if sys.stdout.isatty() else 110, markup=False, highlight=False).print(table)


def _alike(left_out: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Cases left out for one reason, but for their own names in it, in one row where they are many."""
    groups: dict[str, list[str]] = {}
    for id, why in left_out.items():
        groups.setdefault(why.replace(id, ""), []).append(id)
    rows = [[ids] if len(ids) > ALIKE else [[id] for id in ids] for ids in groups.values()]
    return [(ids, left_out[ids[0]]) for group in rows for ids in group]


def _common_folder(report: CheckReport) -> str:
    """The folder that all files lie in, with a slash; it goes into the title, which keeps the rows short."""
    paths = [str(path) for files in report.files.values() for path, *_ in files] + list(report.skipped)
    if len({os.path.isabs(path) for path in paths}) != 1:  # none, or some outside of the root
        return ""
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return f"{common}/" if common else ""


def _short(text: str, common: str) -> str:
    """The text with its paths shortened: without the common folder, and deep ones by their first folder and name."""
    return re.sub(r"([^\s/]+)/(?:[^\s/]+/){2,}([^\s/]+)", r"\1/…/\2", text.replace(common, "") if common else text)


def _describe(report: CheckReport) -> str:
    """Grids, voxel sizes and volumes of the usable cases."""
    cases = [report.cases[id] for id in report.usable]
    if not cases:
        return ""
    grids = Counter((_by(case.shape, ".0f"), _by(case.spacing, ".3g")) for case in cases)
    (shape, spacing), n = grids.most_common(1)[0]
    others = f" ({n} of them; {len(grids) - 1} other grids)" if len(grids) > 1 else ""
    volumes = sorted(case.target_ml for case in cases)
    least, median, most = (volume_text(volumes[n]) for n in (0, len(volumes) // 2, -1))
    target = f"target {least} to {most}, median {median}"
    return f"{shape} voxels of {spacing} mm{others}; {target}"


def _by(numbers: Sequence[float], form: str) -> str:
    shown = [f"{number:{form}}" for number in numbers]
    return shown[0] if len({*shown}) == 1 else " x ".join(shown)
