"""Evaluation of a run on held-out volumes."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.stored import load_config
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.spacing import TrainingSpacing
from tcurlora_seg.data.task import Task, without_ignored
from tcurlora_seg.data.typical import UNKNOWN, Ranges, image_facts, result_facts, unusual
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.metrics import Score, score_structures
from tcurlora_seg.evaluation.overlay import Slices, overlay_figure, slices_of
from tcurlora_seg.evaluation.processes import gather, is_first, share
from tcurlora_seg.evaluation.report import print_summary
from tcurlora_seg.evaluation.statistics import COLUMNS, summarise
from tcurlora_seg.files import atomic_path, read_json, write_json, write_text
from tcurlora_seg.inference.native import segment
from tcurlora_seg.inference.pieces import NOTHING, Clearing
from tcurlora_seg.inference.run import Run, load_run, segmenter
from tcurlora_seg.inference.segmenter import describe_labels
from tcurlora_seg.inference.stored import changed_files
from tcurlora_seg.inference.windows import Predictor
from tcurlora_seg.stopwatch import time_left


def evaluate_run(
    *,
    checkpoint: str | Sequence[str],
    split: str = "test",
    surface_tolerance_mm: float = 1.0,
    pictures: int = 3,
    output: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores of a run, or of an ensemble, on one split, printed and written; what `scripts/evaluate.py` calls.

    The folder of an ensemble looks like a run, so that a comparison takes it for one more method.

    Args:
        checkpoint: the run directory; or several, whose probabilities are averaged, scored on the cases of the first.
        split: train, val or test, as the run drew them.
        surface_tolerance_mm: see `score`.
        pictures: see `evaluate`.
        output: folder for the files; None for `evaluation/<split>` in the run directory.
        options: `device`, `root`, `overlap`, `mirror` and so on, see `load_run`.

    Returns:
        The summary.

    Raises:
        UserError: see `load_run`, `drawn_cases` and `segmenter`; a member of the ensemble that trained on a case;
            see `check_output` and `told_of_changes`.
    """
    check_output(output)
    runs = [load_run(place, **options) for place in ([checkpoint] if isinstance(checkpoint, str) else checkpoint)]
    run, network = runs[0], segmenter(runs)
    cases, trained = run.cases(split), [read_json(r.directory / "metrics.json")["trainable_parameters"] for r in runs]
    _check_unseen(runs[1:], cases if split != "train" else ())
    told_of_changes(run.directory, run.dataset, cases, refused=output is None)
    name = ", ".join(dict.fromkeys(r.config.adapter.name for r in runs))
    name += f", {len(runs)} averaged" if runs[1:] else ""
    folder = Path(output) if output else run.directory / "evaluation" / split
    summary, rows = evaluate(
        network.predictors, run.dataset, cases, folder / "evaluation" / split if runs[1:] else folder,
        spacing=network.spacing, typical=network.typical, clearing=network.clearing,
        surface_tolerance_mm=surface_tolerance_mm, limited=limited_by(run.config, split),
        pictures=pictures, adapter=name, trainable_parameters=sum(trained),
    )  # fmt: skip
    if runs[1:]:
        write_as_run(run.directory, folder, name, trainable_parameters=sum(trained))
    print_summary(rows, summary)
    print(f"written to {folder}")
    return summary


def check_output(output: str | None) -> None:
    """Check that scores written there take no other's place.

    Raises:
        UserError: `output` is a run that was trained.
    """
    if output is not None and (Path(output) / "model.safetensors").exists():
        raise UserError(f"output={output} is a run of its own: choose another folder")


def told_of_changes(directory: Path, dataset: SegmentationDataset, cases: Sequence[str], *, refused: bool) -> None:
    """Say that the files to be scored are not those of the run's beginning.

    Args:
        directory: of the run.
        dataset: where the files are now.
        cases: to be scored.
        refused: whether their scores would take the place of the run's own.

    Raises:
        UserError: they would, and the files have changed.
    """
    changes = changed_files(directory, dataset, cases)
    if changes and refused:
        raise UserError(f"{changes}: these are other data; output=DIR keeps their scores apart")
    if changes:
        print(f"note: {changes}: these are scores of other data")


def limited_by(config: DictConfig, split: str | None) -> str | None:
    """The words for cases that are only a part of a run's split; None where they are all of it."""
    count = config.split.get("test") if split == "test" else None
    return None if count is None else f"the first {count} test cases by hash (split.test)"


def _check_unseen(runs: Sequence[Run], cases: Sequence[str]) -> None:
    for run in runs:
        drawn = read_json(run.directory / "split.json")
        seen = sorted(set(cases) & {*drawn.get("train", []), *drawn.get("val", [])})
        if seen:
            raise UserError(f"{run.directory} trained on {seen[0]}, which is scored: no run of an ensemble may see it")


def evaluate(
    predictors: Sequence[Predictor],
    dataset: SegmentationDataset,
    cases: Sequence[str],
    folder: Path,
    *,
    spacing: TrainingSpacing | None,
    typical: Ranges = UNKNOWN,
    clearing: Clearing = NOTHING,
    surface_tolerance_mm: float = 1.0,
    limited: str | None = None,
    pictures: int = 3,
    **facts: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Predictions and scores of cases on their files' own grid, in mm.

    Several processes share the cases; the first of them writes the table.

    It writes `cases.csv`, `summary.json`, `predictions/<case>.nii.gz` (class indices) and, of some cases,
    `overlays/<case>.png`.

    Args:
        predictors: inference of the network, or of several whose probabilities are averaged.
        dataset: where the cases are.
        cases: their ids.
        folder: for the files.
        spacing: voxel sizes of the training images, see `fitting`.
        typical: ranges over the training images, see `unusual`.
        clearing: rules for pieces.
        surface_tolerance_mm: see `score`.
        limited: see `limited_by`.
        pictures: number of overlays, evenly from the worst to the best case by mean Dice.
        facts: further entries of the summary, such as `adapter`.

    Returns:
        The summary and the rows of `cases.csv`.
    """
    rules = clearing.resolved(dataset.task)  # a mistake in it is told before the first case is computed
    records, remarks, kept = [], [], {}
    for case in told(share(cases)):
        item = dataset.prepare(case, spacing)
        started = time.perf_counter()
        found = segment(predictors, item, dataset.task, clearing)
        seconds = time.perf_counter() - started
        scores = score_structures(
            *without_ignored(found.native, item.native_label.numpy()), dataset.task.structures,
            voxel_sizes(item.affine), surface_tolerance_mm=surface_tolerance_mm,
        )  # fmt: skip
        records += case_rows(case, item.patient, scores, seconds)
        sizes = voxel_sizes(item.image.affine.numpy())
        seen = image_facts(item.image.numpy(), sizes, dataset.modalities)
        seen |= result_facts(found.native, voxel_sizes(item.affine), dataset.task.structures)
        remarks += [{"case": case, "unusual": line} for line in unusual(seen, typical)]
        with atomic_path(folder / "predictions" / f"{case}.nii.gz") as temporary:
            nib.save(nib.Nifti1Image(found.native, item.affine), temporary)
        if pictures:
            shown, label = without_ignored(found.prepared, item.label[0].numpy())
            kept[case] = slices_of(item.image[0].numpy(), label, shown, sizes)
    rows = pd.DataFrame(gather(records), columns=list(COLUMNS))
    draw(rows, kept, folder / "overlays", dataset.task, pictures)
    rows = rows.sort_values("case", key=lambda ids: ids.map(list(cases).index), kind="stable", ignore_index=True)
    summary = write_scores(
        folder, dataset, rows, **facts,
        label_map={str(index): list(values) for index, values in dataset.task.classes.items()},
        overlap=predictors[0].overlap, mirror_axes=list(predictors[0].mirror_axes), shift=predictors[0].shift,
        second_look=predictors[0].second_look, **rules,
        surface_tolerance_mm=surface_tolerance_mm,
        limited=limited,
        unusual=gather(remarks),
    )  # fmt: skip
    return summary, rows


def case_rows(case: str, patient: str, scores: Mapping[str, Score], seconds: float) -> list[dict[str, Any]]:
    """Rows of `cases.csv` for one case."""
    return [{"case": case, "patient": patient, "structure": name, **asdict(score), "seconds": seconds}
            for name, score in scores.items()]  # fmt: skip


def write_scores(folder: Path, dataset: SegmentationDataset, rows: pd.DataFrame, **facts: Any) -> dict[str, Any]:
    """Write `cases.csv`, `summary.json` and the meaning of the label maps, from the first process alone.

    Args:
        folder: for the files.
        dataset: of the cases.
        rows: of `cases.csv`.
        facts: further entries of the summary.

    Returns:
        The summary.
    """
    simulated = dataset.manifest().simulated
    named = {"dataset": dataset.name, "task": dataset.task.name, "simulated": simulated}
    summary = {**named, **facts, **summarise(rows)}
    if is_first():
        with atomic_path(folder / "cases.csv") as temporary:
            rows.to_csv(temporary, index=False)
        write_json(folder / "summary.json", summary)
        indices = {index: index for index in dataset.task.classes}
        write_json(folder / "predictions" / "labels.json", describe_labels(dataset.task, indices))
    return summary


def write_as_run(run: Path, output: Path, name: str, **figures: Any) -> None:
    """Write what a comparison reads besides scores: a run's settings under another method's name.

    Args:
        run: the directory of a run on the same cases.
        output: the folder that shall look like one.
        name: of the method.
        figures: entries of `metrics.json`; costs that nobody measured stay unknown.
    """
    config = load_config(run / "config.yaml")
    config.adapter = {"name": name, "rank": None}
    write_text(output / "config.yaml", OmegaConf.to_yaml(config))
    for file in ("split.json", "plan.json"):
        if (run / file).exists():
            write_json(output / file, read_json(run / file))
    scored = {"command": shlex.join(sys.argv), "time_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(output / "environment.json", {**read_json(run / "environment.json"), **scored})
    unknown = ("steps", "trainable_parameters", "step_seconds", "peak_memory_bytes", "file_bytes")
    write_json(output / "metrics.json", {"seed": config.seed, **dict.fromkeys(unknown), **figures})


def told(cases: Sequence[str]) -> Iterator[str]:
    """Iterator over cases that prints progress and remaining time every 20 seconds."""
    begun = said = time.monotonic()
    for done, case in enumerate(cases):
        now = time.monotonic()
        if done and now - said > 20 and is_first():
            said = now
            print(f"scored {done} of {len(cases)} cases, {time_left(now - begun, done, len(cases))}", flush=True)
        yield case


def spread_out(rows: pd.DataFrame, count: int) -> list[str]:
    """Ids of cases spread evenly by mean Dice: for a count of three the worst, the median and the best.

    Args:
        rows: of `cases.csv`.
        count: number of cases, or fewer where there are not as many.
    """
    dice = rows.groupby("case")["dice"].mean().dropna().sort_values(kind="stable")
    places = np.linspace(0, len(dice) - 1, max(0, min(count, len(dice)))).round().astype(int)
    return [str(case) for case in dice.index[places]]


def draw(rows: pd.DataFrame, kept: Mapping[str, Slices], folder: Path, task: Task, count: int) -> None:
    """Write `<case>.png` of the chosen cases that this process has scored.

    Args:
        rows: of `cases.csv`.
        kept: slices by case.
        folder: for the overlays.
        task: for the names of the structures.
        count: see `spread_out`.
    """
    for case in spread_out(rows, count):
        if case in kept:
            own = rows[rows["case"] == case].set_index("structure")["dice"]
            dice = {name: None if pd.isna(value) else float(value) for name, value in own.items()}
            figure = overlay_figure(kept[case], title=str(case), structures=task.structures, dice=dice)
            with atomic_path(folder / f"{case}.png") as temporary:
                figure.savefig(temporary, dpi=100)
