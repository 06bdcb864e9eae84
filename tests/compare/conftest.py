"""Run directories as training and evaluation write them, with scores of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from tcurlora_seg.data.manifest import read_manifest
from tcurlora_seg.data.simulate import simulate
from tcurlora_seg.data.volume import read_volume
from tcurlora_seg.evaluation.metrics import score
from tcurlora_seg.evaluation.statistics import COLUMNS
from tcurlora_seg.files import write_json, write_text

ENVIRONMENT = {
    "command": "scripts/train.py -m adapter=lora,full </script>", "device": "cpu", "git_commit": "0123456789abcdef",
    "python": "3.11.7", "platform": "Linux", "packages": {"torch": "2.13.0", "monai": None},
    "time_utc": "2026-01-01T00:00:00+00:00",
}  # fmt: skip
PREPARATION = {
    "_target_": "tcurlora_seg.data.preparation.Preparation", "spacing": None, "crop_to_brain": True,
    "intensity": "zscore", "limits": None,
}  # fmt: skip


def rows(dices: Mapping[str, Mapping[str, float | None]], reference: float = 8.0) -> pd.DataFrame:
    """Rows of `cases.csv` from {structure: {case: Dice}}; Dice 0 is a missed structure, None an absent one."""
    records = []
    for structure, by_case in dices.items():
        for case, dice in by_case.items():
            status = "absent" if dice is None else "scored" if dice else "missed"
            record: dict[str, Any] = dict.fromkeys(COLUMNS, 1.0)
            record |= {"case": case, "patient": case, "structure": structure, "status": status, "dice": dice}
            record |= {"hd95_mm": 10 * (1 - dice) if dice else None, "reference_ml": reference}
            record |= {"volume_ml": reference * (dice or 0)}
            records.append(record)
    return pd.DataFrame(records)


def write_run(
    directory: Path,
    cases: pd.DataFrame,
    *,
    adapter: str = "lora",
    rank: int | None = 4,
    seed: int = 0,
    trainable: int = 1000,
    dataset: str = "lpba40",
    task: str = "hippocampus",
    label_map: Mapping[str, Sequence[int]] | None = None,
    root: str = "/nowhere",
    time: str = "2026-01-01T00:00:00+00:00",
    simulated: dict[str, Any] | None = None,
    training: int = 5,
    planned: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a finished run; `changes` are further entries of its configuration, `__` standing for a dot."""
    config = OmegaConf.create({
        "seed": seed, "pretrained": "builtin", "optimizer": {"lr": 0.001}, "inference": {"mirror": False},
        "split": {"scheme": "paper", "fold": 0, "shots": 5, "seed": 0}, "adapter": {"name": adapter, "rank": rank},
        "dataset": {"_target_": "tcurlora_seg.data.datasets.lpba40.LPBA40", "root": root, "task": task,
                    "manifest": None, "modalities": ["t1"], "preparation": PREPARATION},
    })  # fmt: skip
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    folder = directory / "evaluation" / "test"
    metrics = {"seed": seed, "steps": 10, "trainable_parameters": trainable, "step_seconds": 0.5,
               "peak_memory_bytes": 2**30, "file_bytes": 4 * trainable}  # fmt: skip
    write_text(directory / "config.yaml", OmegaConf.to_yaml(config))
    write_json(directory / "metrics.json", metrics)
    write_json(directory / "split.json", {"train": [f"t{n}" for n in range(training)], "val": [], "test": []})
    write_json(directory / "plan.json", planned or {})
    write_json(directory / "environment.json", ENVIRONMENT | {"time_utc": time})
    mean = None if cases["dice"].isna().all() else float(cases["dice"].mean())
    summary = {"dataset": dataset, "task": task, "simulated": simulated, "mean_dice": mean}
    write_json(folder / "summary.json", {**summary, "label_map": label_map or {"1": [1]}})
    cases.to_csv(folder / "cases.csv", index=False)
    return directory


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes one run under `tmp_path/runs`: `make_run([0.8, 0.9], adapter="lora", seed=1)`."""
    count = 0

    def make(dices: Sequence[float | None] | Mapping[str, Mapping[str, float | None]], **options: Any) -> Path:
        nonlocal count
        count += 1
        scores = dices if isinstance(dices, Mapping) else {"a": {f"c{i}": dice for i, dice in enumerate(dices)}}
        reference = options.pop("reference", 8.0)
        return write_run(tmp_path / "runs" / f"run{count}", rows(scores, reference), **options)

    return make


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods of two seeds on a simulated cohort, their label maps being the true ones moved by some voxels."""
    folder = tmp_path_factory.mktemp("compare")
    simulate("lpba40", folder / "data", subjects=4, seed=0, spacing=6.0)
    cases = read_manifest(folder / "data" / "manifest.json", folder / "data").cases
    labels = {case.id: read_volume(folder / "data" / str(case.label)) for case in cases}
    for name, step in (("lora", 1), ("full", 0)):
        for seed in (0, 1):
            run, records = folder / "runs" / f"{name}_{seed}", []
            for k, (case, (raw, affine)) in enumerate(labels.items()):
                truth = np.isin(raw, (165, 166))
                found = np.roll(truth, step * (k % 3) + seed, axis=k % 2)
                result = score(found, truth, nib.affines.voxel_sizes(affine))
                records.append({"case": case, "patient": case, "structure": "hippocampus", "seconds": 1.0}
                               | vars(result))  # fmt: skip
                path = run / "evaluation" / "test" / "predictions" / f"{case}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(found.astype(np.uint8), affine), path)
            write_run(run, pd.DataFrame(records, columns=list(COLUMNS)), adapter=name, rank=4 if step else None,
                      seed=seed, trainable=1000 if step else 9000, root=str(folder / "data"),
                      simulated={"seed": 0})  # fmt: skip
    return folder
