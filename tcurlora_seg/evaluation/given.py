"""Evaluation of another program's label maps on the cases of a run, by the same measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes

from tcurlora_seg.config.stored import load_config
from tcurlora_seg.data.grid import same_grid, turn_to
from tcurlora_seg.data.task import without_ignored
from tcurlora_seg.data.volume import read_volume, whole_numbers
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.evaluate import (
    case_rows,
    check_output,
    draw,
    limited_by,
    told,
    told_of_changes,
    write_as_run,
    write_scores,
)
from tcurlora_seg.evaluation.metrics import score_structures
from tcurlora_seg.evaluation.overlay import slices_of
from tcurlora_seg.evaluation.report import print_summary
from tcurlora_seg.evaluation.statistics import COLUMNS
from tcurlora_seg.files import atomic_path
from tcurlora_seg.inference.segmenter import read_labels
from tcurlora_seg.inference.stored import drawn_cases, stored_dataset


def score_folder(
    *,
    checkpoint: str,
    predictions: str,
    output: str,
    split: str = "test",
    root: str | None = None,
    surface_tolerance_mm: float = 1.0,
    pictures: int = 3,
    trust: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores of `predictions/<case>.nii.gz`, with the data set's own label values, or those of `labels.json` beside.

    `output` looks like a run of an adapter named like the folder, so that a comparison takes it for one more method.

    Args:
        checkpoint: a run directory, for the data set and the cases.
        predictions: the folder of label maps.
        output: a new folder, or one that this has written before.
        split: train, val or test, as the run drew them.
        root: data folder, if it has moved since.
        surface_tolerance_mm: see `score`.
        pictures: see `evaluate`.
        trust: see `check_trusted`.

    Returns:
        The summary.

    Raises:
        UserError: a case without a label map, or one on another grid than its reference or with other label values;
            see `check_output`.
    """
    run, name = Path(checkpoint), Path(predictions).resolve().name
    check_output(output)
    folder = Path(output) / "evaluation" / split
    config = load_config(run / "config.yaml")
    dataset = stored_dataset(config, run / "config.yaml", root, trust)
    records, kept = [], {}
    cases, meaning = drawn_cases(run, dataset, split), read_labels(Path(predictions) / "labels.json", dataset.task)
    told_of_changes(run, dataset, cases, refused=False)
    for id in told(cases):
        case = dataset.manifest().case(id)
        raw, affine = dataset.read_label(case)
        path = Path(predictions) / f"{id}.nii.gz"
        found, other = turn_to(*read_volume(path), affine)
        if found.shape != raw.shape:
            raise UserError(f"{path} is not on the grid of its reference: {found.shape} voxels, expected {raw.shape}")
        if not same_grid(raw.shape, affine, other, f"{path} and its reference"):
            raise UserError(f"{path} is not on the grid of its reference: it lies elsewhere by its header (affine)")
        found = whole_numbers(found, path)
        strange = set(np.unique(found).tolist()) - (set(dataset.known_labels) if meaning is None else {0, *meaning})
        if strange:
            raise UserError(f"{path} holds {min(strange)}, which is no label value of {dataset.name}: give its own "
                            "values, not class indices")  # fmt: skip
        if meaning is not None:
            found = np.select([found == value for value in meaning], [raw[0] for raw in meaning.values()], 0)
        found = dataset.task.class_indices(found)
        with atomic_path(folder / "predictions" / f"{id}.nii.gz") as temporary:
            nib.save(nib.Nifti1Image(found, affine), temporary)
        found, reference = without_ignored(found, dataset.task.class_indices(raw))
        scores = score_structures(
            found, reference, dataset.task.structures, voxel_sizes(affine), surface_tolerance_mm=surface_tolerance_mm
        )
        records += case_rows(id, case.patient, scores, seconds=float("nan"))
        if pictures:
            _, image, placed = next(dataset.read_images(case))
            volumes = (image, placed), (reference, affine), (found, affine)
            (image, placed), (reference, _), (found, _) = (turn_to(*volume, np.eye(4)) for volume in volumes)
            kept[id] = slices_of(image, reference, found, voxel_sizes(placed))
    rows = pd.DataFrame(records, columns=list(COLUMNS))
    draw(rows, kept, folder / "overlays", dataset.task, pictures)
    summary = write_scores(
        folder, dataset, rows, adapter=name, predictions=predictions, surface_tolerance_mm=surface_tolerance_mm,
        label_map={str(index): list(values) for index, values in dataset.task.classes.items()}, unusual=[],
        limited=limited_by(config, split),
    )  # fmt: skip
    write_as_run(run, Path(output), name)
    print_summary(rows, summary)
    print(f"written to {output}")
    return summary
