"""Scoring label maps that another program has made, on the cases of a run: they are measured as the run's own are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from nibabel.affines import voxel_sizes

from tcurlora_seg.config.stored import load_config
from tcurlora_seg.data.grid import same_grid, turn_to
from tcurlora_seg.data.task import without_ignored
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.evaluate import told
from tcurlora_seg.evaluation.metrics import score_structures
from tcurlora_seg.evaluation.report import print_summary
from tcurlora_seg.evaluation.statistics import COLUMNS, summarise
from tcurlora_seg.files import atomic_path, read_json, write_json
from tcurlora_seg.inference.stored import stored_dataset


def score_folder(
    *,
    checkpoint: str,
    predictions: str,
    output: str,
    split: str = "test",
    root: str | None = None,
    surface_tolerance_mm: float = 1.0,
    trust: Sequence[str] = (),
) -> dict[str, Any]:
    """Score `predictions/<case>.nii.gz`, which hold the data set's own label values; returns the summary.

    Args:
        checkpoint: a run directory, for the data set and the cases.
        predictions: the folder of label maps.
        output: folder for `cases.csv` and `summary.json`.
        split: which cases: train, val or test, as the run drew them.
        root: data folder, if it is no longer where the run had it.
        surface_tolerance_mm: see `score`.
        trust: see `check_trusted`.

    Raises:
        UserError: a case without a label map, or one on another grid than its reference.
    """
    config = load_config(Path(checkpoint) / "config.yaml")
    dataset = stored_dataset(config, Path(checkpoint) / "config.yaml", root, trust)
    cases = read_json(Path(checkpoint) / "split.json")[split]
    records = []
    for id in told(cases):
        case = dataset.manifest().case(id)
        raw, affine = dataset.read_label(case)
        path = Path(predictions) / f"{id}.nii.gz"
        stored, other = read_volume(path)
        found, other = turn_to(stored, other, affine)
        if found.shape != raw.shape or not same_grid(raw.shape, affine, other, f"{path} and its reference"):
            raise UserError(f"{path} is not on the grid of its reference: {found.shape} voxels, expected {raw.shape}")
        pair = without_ignored(dataset.task.class_indices(found), dataset.task.class_indices(raw))
        sizes = voxel_sizes(affine)
        scores = score_structures(*pair, dataset.task.structures, sizes, surface_tolerance_mm=surface_tolerance_mm)
        records += [{"case": id, "patient": case.patient, "structure": name, **asdict(result), "seconds": float("nan")}
                    for name, result in scores.items()]  # fmt: skip
    rows = pd.DataFrame(records, columns=list(COLUMNS))
    summary = {
        "dataset": dataset.name,
        "task": dataset.task.name,
        "simulated": dataset.manifest().simulated,
        "adapter": Path(predictions).name,
        "predictions": predictions,
        "surface_tolerance_mm": surface_tolerance_mm,
        "unusual": [],
        **summarise(rows),
    }
    with atomic_path(Path(output) / "cases.csv") as temporary:
        rows.to_csv(temporary, index=False)
    write_json(Path(output) / "summary.json", summary)
    print_summary(rows, summary)
    print(f"written to {output}")
    return summary
