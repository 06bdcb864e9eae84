"""Simulated cohorts: real anatomies, varied by seed, written in the layout of the data set they stand in for.

Their scores show that a pipeline learns and compare methods with each other; they say nothing about real cohorts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tcurlora_seg.data.formats import stem
from tcurlora_seg.data.manifest import SIMULATED, Case, Manifest, write_manifest
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import write_text
from tcurlora_seg.randomness import single_threaded

_FILES = "\nFiles:\n"


def simulate(
    dataset: str,
    root: str | Path,
    *,
    subjects: int,
    seed: int = 0,
    spacing: float = 2.0,
    anatomies: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write `subjects` simulated cases of a data set, `manifest.json` and the marker `SIMULATED.txt` into `root`.

    Subject k is a pure function of (seed, k, spacing): a larger cohort begins with the smaller one's subjects. A folder
    that already holds a simulated cohort of the same data set is written anew; the old subjects are removed.

    With `anatomies` the subjects are varied from the label maps in that folder in turn, and subjects of one map are one
    patient, so that no split has an anatomy on two sides; they stay a pure function of (seed, k, spacing, map).

    Args:
        dataset: "lpba40", "eadc_adni", "brats2021" or "upenn_gbm".
        root: a new or empty folder, or one with an earlier simulated cohort of the same data set.
        subjects: how many.
        seed: of the whole cohort.
        spacing: voxel size in mm; the real data have 1.
        anatomies: folder of label maps with FreeSurfer's values, see `anatomies`; None takes the package's one head.
        progress: called as progress(done, all) after every subject.

    Raises:
        UserError: no such cohort; `root` is a file or holds anything else; a number out of range; no label map.
    """
    import torch

    from tcurlora_seg.data.simulate.anatomies import find_maps, head_of_map
    from tcurlora_seg.data.simulate.cohorts import COHORTS, Subject
    from tcurlora_seg.data.simulate.folder import CohortFolder
    from tcurlora_seg.data.simulate.head import DESCRIPTION, real_head

    root = Path(root)
    if dataset not in COHORTS:
        raise UserError(f"no simulated cohort stands in for '{dataset}'; there are {', '.join(COHORTS)}")
    if subjects < 1:
        raise UserError(f"simulate={subjects}: expected at least one subject")
    if not 0.5 <= spacing <= 8:
        raise UserError(f"a voxel size of {spacing} mm is out of range: expected 0.5 to 8")
    maps = find_maps(anatomies) if anatomies else []
    _clear(root, dataset)
    write_text(root / SIMULATED, _marker(dataset))
    cohort, folder = COHORTS[dataset], CohortFolder(root)

    def write(number: int) -> Case:
        path = maps[(number - 1) % len(maps)] if maps else None
        head = head_of_map(path) if path else real_head()
        case = cohort.write(folder, Subject(cohort.id(number), number, seed, spacing, head))
        return replace(case, patient=stem(path)) if path else case

    real_head()
    cases: list[Case] = []
    source = f"{len(maps)} label maps: {', '.join(path.name for path in maps)}" if maps else DESCRIPTION
    settings: dict[str, Any] = {"head": source, "subjects": subjects, "seed": seed, "spacing_mm": spacing}
    workers = min(4, os.cpu_count() or 1)
    try:  # one subject a thread: threads that share an operation mostly wait for each other
        with single_threaded(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for case in pool.map(write, range(1, subjects + 1)):
                cases.append(case)
                if progress:
                    progress(len(cases), subjects)
        manifest = Manifest(dataset, tuple(sorted(cases, key=lambda case: case.id)), simulated=settings)
        write_manifest(manifest, root / "manifest.json")
    finally:
        write_text(root / SIMULATED, _marker(dataset, sorted(folder.written)))
    return manifest


def _marker(dataset: str, files: Iterable[str] = ()) -> str:
    return (
        f"dataset: {dataset}\n\n"
        "Everything listed here was simulated from real anatomies by scripts/prepare_data.py, in the on-disk layout\n"
        f"of {dataset}. No file shows a patient. Scores obtained here show that a pipeline learns and compare methods\n"
        f"with each other; they say nothing about the real data set.\n{_FILES}" + "".join(f"{file}\n" for file in files)
    )


def _clear(root: Path, dataset: str) -> None:
    """Make way for a cohort: refuse whatever is not an earlier one of the same data set, remove that one's files."""
    if root.exists() and not root.is_dir():
        raise UserError(f"dataset.root={root} is a file; a simulated cohort needs a folder")
    if not root.is_dir() or not any(root.iterdir()):
        return
    marker = root / SIMULATED
    if not marker.is_file():
        raise UserError(f"{root} is not empty and holds no simulated cohort; choose a new folder; nothing was changed")
    text = marker.read_text(encoding="utf-8", errors="replace")
    if not text.startswith(f"dataset: {dataset}\n"):
        raise UserError(f"{root} holds another data set's simulated cohort; choose a new folder; nothing was changed")
    from tcurlora_seg.data.simulate.folder import CohortFolder

    files, place = text.partition(_FILES)[2].splitlines(), root.resolve()
    outside = next((file for file in files if not (place / file).resolve().is_relative_to(place)), None)
    if outside:
        raise UserError(f"{marker} lists {outside}, which is not under {root}; nothing was changed")
    for file in files:
        CohortFolder(root).remove(file)
    (root / "manifest.json").unlink(missing_ok=True)
