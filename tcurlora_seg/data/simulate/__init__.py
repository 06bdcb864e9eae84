"""Simulated cohorts: one real head, varied by seed, written in the layout of the data set they stand in for.

Their scores show that a pipeline learns and compare methods with each other; they say nothing about real cohorts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tcurlora_seg.data.manifest import SIMULATED, Manifest, read_manifest, write_manifest
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import write_text


def simulate(
    dataset: str,
    root: str | Path,
    *,
    subjects: int,
    seed: int = 0,
    spacing: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write `subjects` simulated cases of a data set, `manifest.json` and the marker `SIMULATED.txt` into `root`.

    Subject k is a pure function of (seed, k, spacing): a larger cohort begins with the smaller one's subjects. A folder
    that already holds a simulated cohort of the same data set is written anew; the old subjects are removed.

    Args:
        dataset: "lpba40" or "brats2021".
        root: a new or empty folder, or one with an earlier simulated cohort of the same data set.
        subjects: how many.
        seed: of the whole cohort.
        spacing: voxel size in mm; the real data have 1.
        progress: called as progress(done, subjects) after every subject.

    Raises:
        UserError: no such cohort; `root` is a file or holds anything else; a number out of range.
    """
    import torch

    from tcurlora_seg.data.simulate.cohorts import COHORTS
    from tcurlora_seg.data.simulate.head import DESCRIPTION, real_head

    root = Path(root)
    if dataset not in COHORTS:
        raise UserError(f"no simulated cohort stands in for '{dataset}'; there are {', '.join(COHORTS)}")
    if subjects < 1:
        raise UserError(f"simulate={subjects}: expected at least one subject")
    if not 0.5 <= spacing <= 8:
        raise UserError(f"a voxel size of {spacing} mm is out of range: expected 0.5 to 8")
    _clear(root, dataset)
    write_text(root / SIMULATED, _marker(dataset))
    real_head()
    cases = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one subject a thread: threads that share an operation mostly wait for each other
    try:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for case in pool.map(lambda n: COHORTS[dataset](root, n, seed, spacing), range(1, subjects + 1)):
                cases.append(case)
                if progress:
                    progress(len(cases), subjects)
    finally:
        torch.set_num_threads(threads)
    settings = {"head": DESCRIPTION, "subjects": subjects, "seed": seed, "spacing_mm": spacing}
    manifest = Manifest(dataset=dataset, cases=tuple(cases), simulated=settings)
    write_manifest(manifest, root / "manifest.json")
    return manifest


def _marker(dataset: str) -> str:
    return (
        f"dataset: {dataset}\n\n"
        "Everything in this folder was simulated from one real head by scripts/prepare_data.py, in the on-disk layout\n"
        f"of {dataset}. No file shows a patient. Scores obtained here show that a pipeline learns and compare methods\n"
        "with each other; they say nothing about the real data set.\n"
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
    if marker.read_text(encoding="utf-8").splitlines()[0] != f"dataset: {dataset}":
        raise UserError(f"{root} holds another data set's simulated cohort; choose a new folder; nothing was changed")
    if (root / "manifest.json").is_file():
        for case in read_manifest(root / "manifest.json", root).cases:
            folders = {(root / path).parent for path in case.paths}
            for path in case.paths:
                for file in (root / path, (root / path).with_suffix(".img.gz")):
                    file.unlink(missing_ok=True)
            for folder in folders:
                if not any(folder.iterdir()):
                    folder.rmdir()
        (root / "manifest.json").unlink()
