"""A finished run: loading it again, and scoring it on volumes it has not seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from monai.networks.nets import UNETR
from omegaconf import DictConfig
from torch import Tensor, nn

from tcurlora_seg.checkpoint import load_model
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.entry import load_config
from tcurlora_seg.errors import UserError
from tcurlora_seg.evaluation.inference import Predictor
from tcurlora_seg.evaluation.metrics import score
from tcurlora_seg.evaluation.overlay import overlay_figure, save_figure
from tcurlora_seg.evaluation.processes import gather, is_first, share
from tcurlora_seg.evaluation.report import print_summary
from tcurlora_seg.evaluation.statistics import COLUMNS, summarise
from tcurlora_seg.files import atomic_path, read_json, write_json
from tcurlora_seg.models.injection import adapt_from_config, merge
from tcurlora_seg.models.pretrained import load_pretrained
from tcurlora_seg.trust import check_trusted


@dataclass(frozen=True)
class Run:
    """A finished run, ready to predict.

    Attributes:
        directory: where it lies.
        config: its resolved configuration, with what was overridden on loading.
        dataset: its data set, which knows task and preparation.
        network: the merged network, a plain MONAI UNETR in evaluation mode.
    """

    directory: Path
    config: DictConfig
    dataset: SegmentationDataset
    network: nn.Module

    def cases(self, split: str) -> list[str]:
        """The case ids that the run drew as `train`, `val` or `test`."""
        drawn = read_json(self.directory / "split.json")
        if split not in drawn:
            raise UserError(f"split={split}: choose train, val or test")
        if not drawn[split]:
            raise UserError(f"split={split}: {self.directory} drew no such cases")
        return list(drawn[split])


def load_run(
    directory: str | Path, *, device: str = "auto", root: str | None = None, pretrained: str | None = None
) -> Run:
    """Rebuild a run's network from its base, its model file and its configuration, and merge the adapters.

    Args:
        directory: the run directory.
        device: auto, cpu, cuda, ...
        root: data folder, if it is no longer where the run had it.
        pretrained: base weights, if they are no longer where the run had them.

    Raises:
        UserError: files missing or damaged, another base, a device that is not there.
    """
    directory = Path(directory)
    config = load_config(directory / "config.yaml")
    check_trusted(config, directory / "config.yaml")
    if root is not None:
        config.dataset.root = root
    if pretrained is not None:
        config.pretrained = pretrained
    dataset = instantiate(config.dataset)
    network = build_network(config, dataset)
    load_pretrained(network, config.pretrained, missing=config.pretrained_missing, inflate=config.pretrained_inflate)
    adapt_from_config(network, config.adapter, seed=config.seed)
    load_model(network, directory / "model.safetensors")
    return Run(directory, config, dataset, merge(network).eval().to(choose_device(device)))


def build_network(config: DictConfig, dataset: SegmentationDataset) -> UNETR:
    """The network of a configuration, with the channels that the data set and its task need."""
    return instantiate(config.model, in_channels=len(dataset.modalities), out_channels=dataset.task.out_channels)


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def predictor_for(network: nn.Module, config: DictConfig, dataset: SegmentationDataset) -> Predictor:
    """Whole-volume inference as the configuration asks for it."""
    return Predictor(
        network,
        window=list(config.model.img_size),
        overlap=config.inference.overlap,
        batch_size=config.inference.batch_size,
        mirror_axes=tuple(config.data.augmentation.mirror_axes) if config.inference.mirror else (),
        mirror_pairs=dataset.task.mirror_pairs,
    )


def evaluate_run(
    *,
    checkpoint: str,
    split: str = "test",
    root: str | None = None,
    pretrained: str | None = None,
    device: str = "auto",
    overlap: float | None = None,
    mirror: bool | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Score a run on one of its splits; what `scripts/evaluate.py` calls. Returns the summary.

    Raises:
        UserError: see `load_run`.
    """
    run = load_run(checkpoint, device=device, root=root, pretrained=pretrained)
    for key, value in (("overlap", overlap), ("mirror", mirror)):
        if value is not None:
            run.config.inference[key] = value
    predictor = predictor_for(run.network, run.config, run.dataset)
    folder = Path(output) if output else run.directory / "evaluation" / split
    metrics = read_json(run.directory / "metrics.json")
    summary, rows = evaluate(
        predictor, run.dataset, run.cases(split), folder,
        adapter=run.config.adapter.name, trainable_parameters=metrics["trainable_parameters"],
    )  # fmt: skip
    print_summary(rows, summary)
    print(f"written to {folder}")
    return summary


def evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    cases: Sequence[str],
    folder: Path,
    *,
    adapter: str,
    trainable_parameters: int,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Predict and score cases in their files' own grid, in mm.

    Writes `cases.csv`, `summary.json`, `predictions/<case>.nii.gz` (class indices) and `overlays/<case>.png`.

    Returns:
        The summary and the rows of `cases.csv`.
    """
    records = []
    for case in share(cases):
        item = dataset.prepare(case)
        started = time.perf_counter()
        probabilities = predictor(item["image"]).cpu()
        prediction = to_native(probabilities, item["image"], dataset).numpy()
        seconds = time.perf_counter() - started
        reference = item["native_label"].numpy()
        spacing = nib.affines.voxel_sizes(item["affine"])
        for name, classes in dataset.task.structures.items():
            result = score(np.isin(prediction, classes), np.isin(reference, classes), spacing)
            record = {"case": case, "patient": item["patient"], "structure": name, **asdict(result), "seconds": seconds}
            records.append(record)
        with atomic_path(folder / "predictions" / f"{case}.nii.gz") as temporary:
            nib.save(nib.Nifti1Image(prediction, item["affine"]), temporary)
        dices = [record["dice"] for record in records if record["case"] == case and record["dice"] is not None]
        title = f"{case}, Dice {sum(dices) / len(dices):.3f}" if dices else str(case)
        image, label = (item[key][0].cpu().numpy() for key in ("image", "label"))
        figure = overlay_figure(image, label, probabilities.argmax(0).numpy(), title=title)
        save_figure(figure, folder / "overlays" / f"{case}.png")
    rows = pd.DataFrame(gather(records), columns=list(COLUMNS))
    rows = rows.sort_values("case", key=lambda ids: ids.map(list(cases).index), kind="stable", ignore_index=True)
    summary = {
        "dataset": dataset.name,
        "task": dataset.task.name,
        "simulated": dataset.manifest().simulated,
        "adapter": adapter,
        "trainable_parameters": trainable_parameters,
        **summarise(rows),
    }
    if is_first():
        with atomic_path(folder / "cases.csv") as temporary:
            rows.to_csv(temporary, index=False)
        write_json(folder / "summary.json", summary)
    return summary, rows


def to_native(probabilities: Tensor, image: Any, dataset: SegmentationDataset) -> Tensor:
    """The label map (X, Y, Z) uint8 on the file's grid of class probabilities on the prepared one.

    Where the preparation resamples, the probabilities are brought back before the largest is taken, which keeps
    edges smooth; where it only turns and crops, the label map itself is.
    """
    if dataset.preparation.spacing is None:
        labels = probabilities.argmax(0, keepdim=True)
        return dataset.preparation.invert(labels.to(torch.uint8), image, nearest=True)[0].to(torch.uint8)
    return dataset.preparation.invert(probabilities, image, nearest=False).argmax(0).to(torch.uint8)
