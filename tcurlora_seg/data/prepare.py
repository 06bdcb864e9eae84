"""Check of a data folder, its manifest, or a cohort simulated into it: the work of `scripts/prepare_data.py`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import MofNCompleteColumn, Progress

from tcurlora_seg.data.check_report import REPORT, CheckReport, print_report
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.examine import VERSION, duplicates, examine_all, same_labels
from tcurlora_seg.data.fingerprint import Fingerprint, fingerprint
from tcurlora_seg.data.known_defects import known_defects
from tcurlora_seg.data.manifest import (
    Manifest,
    load_manifest,
    manifest_folder,
    manifest_path,
    write_manifest,
)
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.data.split import draw_by_name
from tcurlora_seg.errors import UserError

_SAVE_EVERY = 10.0  # seconds of examination that an interruption may cost


def prepare_data(config: DictConfig) -> Manifest:
    """Simulate `config.simulate` subjects into the data set's root; or, where that is null, check what lies there.

    Raises:
        UserError: a folder that cannot be used, or no usable case, and no manifest is written then; a split that
            cannot be drawn.
    """
    dataset: SegmentationDataset = instantiate(config.dataset)
    if config.simulate is not None:
        return _simulate(dataset, config)
    folder = Path(config.output) if config.output else manifest_folder(dataset.name, dataset.root)
    report, manifest = check_folder(dataset, folder, workers=config.workers or len(os.sched_getaffinity(0)))
    print_report(report, simulated=bool(manifest.simulated))
    if sides := dataset.task.describe_sides():
        print(sides)
    if not manifest.cases:
        raise UserError(f"{dataset.name}: no case under dataset.root={dataset.root.absolute()} can be used")
    write_manifest(manifest, folder / "manifest.json", outside=dataset.outside_root)
    drawn = draw_by_name(manifest, **config.split, paper=dataset.paper_split)
    manifest = replace(manifest, splits={**manifest.splits, **drawn})
    write_manifest(manifest, folder / "manifest.json", outside=dataset.outside_root)
    for name, split in drawn.items():
        print(f"split.scheme={name}: " + ", ".join(f"{len(ids)} {side}" for side, ids in split.sides.items()))
    print(f"written: {folder / 'manifest.json'} and {folder / REPORT}")
    if manifest_path(dataset.name, dataset.root) != folder / "manifest.json":
        print(f"train with dataset.manifest={folder / 'manifest.json'}")
    return manifest


def _simulate(dataset: SegmentationDataset, config: DictConfig) -> Manifest:
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        work = bar.add_task(f"simulating {dataset.name}", total=config.simulate)
        manifest = simulate(
            dataset.name,
            dataset.root,
            subjects=config.simulate,
            seed=config.seed,
            spacing=config.spacing,
            anatomies=config.anatomies,
            progress=lambda done, total: bar.update(work, completed=done, total=total),
        )
    print(f"{dataset.name}: {len(manifest.cases)} simulated cases in {dataset.root}")
    return manifest


def check_folder(dataset: SegmentationDataset, folder: Path, *, workers: int = 1) -> tuple[CheckReport, Manifest]:
    """Report of a folder's check, voxel by voxel, written as `folder`/check_report.json.

    The cases are those of `dataset.manifest` where that is given, otherwise those that lie on disk but for the known
    defects. An older manifest's splits, but for those that came with the files, what a person has excluded in it and
    what it says of a simulation are kept. Cases whose files are the same as at an earlier check are not examined again.

    Returns:
        The report, and the manifest of the usable cases, not yet written; it has no cases where none is usable.

    Raises:
        UserError: no case at all; an older manifest that cannot be read; a folder that cannot be written.
    """
    dataset.check_root()
    before = CheckReport.read(folder / REPORT)
    cohort, by_hand, skipped = _candidates(dataset, folder)
    dataset.check(cohort)  # before any file is read, which may take an hour
    if cohort.cases or not cohort.excluded:
        dataset.adopt(cohort)
        cohort = dataset.manifest()
    every = {name: value for name, value in dataset.settings().items() if name != "modalities"}  # all are examined
    settings = repr((VERSION, every))
    report = CheckReport(
        dataset.name, dataset.task.name, str(dataset.root.absolute()), settings,
        by_hand=by_hand, skipped=skipped,
    )  # fmt: skip
    files = {case.id: fingerprint(case, dataset.root) for case in cohort.cases}
    if before and before.settings == settings:
        for id, found in files.items():
            if id in before.cases and before.files.get(id) == found:
                report.cases[id], report.files[id] = before.cases[id], found
    _examine_rest(dataset, report, files, folder / REPORT, workers)
    problems = {id: case.problem for id, case in sorted(report.cases.items()) if case.problem}
    problems |= duplicates({id: report.cases[id] for id in files if id not in problems})
    manifest = cohort.without(problems)
    report.usable = [case.id for case in manifest.cases]
    report.left_out = {id: why for id, why in sorted(manifest.excluded.items()) if id not in report.by_hand}
    patients = {case.id: case.patient for case in manifest.cases}
    report.same_labels = same_labels({id: report.cases[id] for id in report.usable}, patients)
    report.write(folder / REPORT)
    return report, replace(manifest, by_check=tuple(report.left_out))


def _candidates(dataset: SegmentationDataset, folder: Path) -> tuple[Manifest, dict[str, str], dict[str, str]]:
    """The cohort before any file is opened, what a person has excluded from it, the files that belong to no case."""
    if dataset.manifest_path:
        given = load_manifest(dataset.manifest_path, dataset.name)
        return given, given.excluded_by_hand, {}
    place = folder / "manifest.json"
    place = place if place.is_file() else dataset.root / "manifest.json"
    older = load_manifest(place, dataset.name) if place.is_file() else Manifest(dataset.name, ())
    by_hand, found = older.excluded_by_hand, dataset.find_cases()
    cases = found.cases
    if older.simulated:  # only its own manifest knows which subjects share an anatomy
        patients = {case.id: case.patient for case in older.cases}
        cases = tuple(replace(case, patient=patients.get(case.id, case.patient)) for case in cases)
    splits = {**older.splits, **found.splits}  # lists that come with the files may have been edited since
    there = {*(case.id for case in cases), *found.left_out, *by_hand}
    gone = {
        id: f"its files are gone; the split '{name}' names it"
        for name, split in splits.items()
        for ids in split.sides.values()
        for id in ids
        if id not in there
    }
    cohort = replace(older, cases=cases, splits=splits, excluded={**gone, **found.left_out, **by_hand})
    return cohort.without({**known_defects(dataset.name, cases), **by_hand}), by_hand, dict(found.skipped)


def _examine_rest(
    dataset: SegmentationDataset, report: CheckReport, files: Mapping[str, Fingerprint], path: Path, workers: int
) -> None:
    """Examine what the report does not know yet, and write it now and then, so that an interruption costs little."""
    try:
        report.write(path)
    except UserError as error:
        raise UserError(f"{error}: output=DIR puts manifest and report elsewhere") from error
    rest = [id for id in files if id not in report.cases]
    if report.cases:
        print(f"{len(report.cases)} of {len(files)} cases are as they were at the last check")
    saved = time.monotonic()
    try:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), transient=True,
                      disable=not sys.stdout.isatty()) as bar:  # fmt: skip
            work = bar.add_task(f"examining {dataset.name}", total=len(rest))
            for id, examination in examine_all(dataset, rest, workers):
                report.cases[id], report.files[id] = examination, files[id]
                bar.advance(work)
                if time.monotonic() - saved > _SAVE_EVERY:
                    report.write(path)
                    saved = time.monotonic()
    except KeyboardInterrupt:
        print(f"stopped: the same command goes on after {len(report.cases)} of {len(files)} cases", file=sys.stderr)
        raise
    finally:
        report.write(path)
