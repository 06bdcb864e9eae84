"""Finished runs: loading, and segmentation with one or an ensemble of them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from nibabel.spatialimages import SpatialImage
from omegaconf import DictConfig
from torch import nn

from tcurlora_seg.config.checks import check_second_look
from tcurlora_seg.config.paths import PACKAGED, packaged
from tcurlora_seg.config.stored import load_config
from tcurlora_seg.config.trust import check_trusted
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.spacing import TrainingSpacing, read_spacing
from tcurlora_seg.data.task import Task
from tcurlora_seg.data.typical import Ranges, read_ranges
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json
from tcurlora_seg.inference.exported import exported_config
from tcurlora_seg.inference.pieces import Clearing
from tcurlora_seg.inference.segmenter import Channels, Segmenter
from tcurlora_seg.inference.stored import drawn_cases, stored_dataset
from tcurlora_seg.inference.windows import Predictor
from tcurlora_seg.models.backbone import backbone_of, build_network, builder_arguments, window_of
from tcurlora_seg.models.checkpoint import load_model, read_metadata, trained_on
from tcurlora_seg.models.injection import adapt_from_config, merge
from tcurlora_seg.models.precision import choose_device
from tcurlora_seg.models.pretrained import load_pretrained
from tcurlora_seg.models.speed import speed_up

_NEEDED = ("dataset", "model", "adapter", "data", "inference", "pretrained", "pretrained_missing", "pretrained_inflate",
           "seed")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Finished run, ready to predict.

    Attributes:
        directory: of the run; of exported weights, their file.
        config: its resolved configuration, with the values overridden on loading.
        dataset: its data set, with task and preparation.
        network: the merged network, a plain one in evaluation mode.
        spacing: voxel sizes of its training images; None in older model files.
        typical: ranges over its training images, see `unusual`; empty in older model files.
    """

    directory: Path
    config: DictConfig
    dataset: SegmentationDataset
    network: nn.Module
    spacing: TrainingSpacing | None = None
    typical: Ranges = field(default_factory=dict)

    def __repr__(self) -> str:
        data = f"{self.dataset.name} {self.dataset.task.name} ({', '.join(self.dataset.modalities)})"
        return f"Run({self.directory}: {self.config.adapter.name}, {data})"

    def _repr_html_(self) -> str:
        """What a notebook shows: `repr`, and a held-out case's overlay where the run has stored one."""
        pictures = sorted(self.directory.glob("evaluation/test/overlays/*.png"))[:1]
        shown = [f'<img src="data:image/png;base64,{b64encode(p.read_bytes()).decode()}">' for p in pictures]
        return "".join([f"<pre>{escape(repr(self))}</pre>", *shown])

    @property
    def simulated(self) -> bool:
        """Whether it was trained on a simulated cohort, by its own notes."""
        scores = None if self.directory.is_file() else read_json(self.directory / "metrics.json")["scores"]
        if scores is not None:
            return scores["simulated"] is not None
        return all(cohort.split("/")[0] != self.dataset.name for cohort in trained_on(str(self.model_file)))

    def cases(self, split: str) -> list[str]:
        """The case ids that the run drew as `train`, `val` or `test`; see `drawn_cases`.

        Raises:
            UserError: exported weights, no such split, or a case that has left the data set since.
        """
        if self.directory.is_file():
            raise UserError(f"{self.directory} holds exported weights, which know no split: give the run directory")
        return drawn_cases(self.directory, self.dataset, split)

    @property
    def model_file(self) -> Path:
        return self.directory if self.directory.is_file() else self.directory / "model.safetensors"

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments of the plain class that takes the weights of `network`; see `Backbone.exported`."""
        built = builder_arguments(self.config.model, window_of(self.config), **self.dataset.channels)
        return backbone_of(self.network).arguments(self.network, built)

    def predictor(self) -> Predictor:
        """Whole-volume inference by the configuration; the network uses faster kernels from now on."""
        predictor = predictor_for(self.network, self.config, self.dataset)
        speed_up(self.network, half=predictor.resolved == "bf16-mixed")
        return predictor

    def predict(self, image: Channels) -> SpatialImage:
        """Label map of an image, on the image's own grid; see `Segmenter.predict`."""
        return segmenter(self).predict(image)


def load_run(
    directory: str | Path,
    *,
    device: str = "auto",
    root: str | None = None,
    pretrained: str | None = None,
    overlap: float | None = None,
    mirror: bool | None = None,
    shift: int | None = None,
    second_look: bool | None = None,
    precision: str | None = None,
    min_share: float | None = None,
    min_component_ml: float | Mapping[str, float] | None = None,
    largest_pieces: int | Mapping[str, int] | None = None,
    trust: Sequence[str] = (),
    merged: bool = True,
) -> Run:
    """Finished run with its network, rebuilt from base, model file and configuration, the adapters merged.

    Args:
        directory: the run directory; a .safetensors file of exported weights; or `builtin`, the packaged base.
        device: auto, cpu, cuda, ...
        root: data folder, if it is no longer where the run had it.
        pretrained: base weights, if they are no longer where the run had them.
        overlap, mirror, shift, second_look, precision: see `Predictor`; None for the run's own.
        min_share, min_component_ml, largest_pieces: see `Clearing`; None for the run's own.
        trust: packages of one's own that the run's configuration may name, see `check_trusted`.
        merged: False leaves the adapters beside the base, as `save_peft` takes them.

    Raises:
        UserError: files missing or damaged, another base, a device that is not there.
    """
    place = packaged(directory)
    exported = place.suffix == ".safetensors"
    source = place if exported else place / "config.yaml"
    config = exported_config(place) if exported else load_config(source)
    lacking = [key for key in _NEEDED if key not in config]
    if lacking:
        raise UserError(f"{source} is not the configuration of a run: it has no {lacking[0]}")
    check_trusted(config, source, trust=trust)
    config.pretrained = pretrained or _base_of(str(config.pretrained), place)
    given = {"overlap": overlap, "mirror": mirror, "shift": shift, "second_look": second_look, "precision": precision,
             "min_share": min_share, "min_component_ml": min_component_ml,
             "largest_pieces": largest_pieces}  # fmt: skip
    config.inference.update({key: value for key, value in given.items() if value is not None})
    dataset = stored_dataset(config, source, root, trust)
    network = build_network(config.model, window_of(config), **dataset.channels)
    report = load_pretrained(
        network, config.pretrained, missing=config.pretrained_missing, inflate=config.pretrained_inflate
    )
    if exported:
        if report.fresh:
            raise UserError(f"{place} lacks weights of the network that it describes: {', '.join(report.fresh[:3])}")
        notes = read_metadata(place)
    else:
        adapt_from_config(network, config.adapter, seed=config.seed)
        notes = load_model(network, place / "model.safetensors")
    try:
        spacing, typical = read_spacing(notes.get("spacing")), read_ranges(notes.get("typical"))
    except (KeyError, TypeError, ValueError) as error:
        what = "its notes on the training images, spacing and typical, are none"
        raise UserError(f"{source}: {what} ({error})") from error
    network = (merge(network) if merged else network).eval().to(choose_device(device))
    return Run(place, config, dataset, network, spacing, typical)


def _base_of(source: str, run: Path) -> str:
    """A run's `pretrained`; a path relative to another working folder is looked for in the folders above the run."""
    if source in PACKAGED or Path(source).exists():
        return source
    return next((str(above / source) for above in run.resolve().parents if (above / source).is_file()), source)


def predictor_for(network: nn.Module, config: DictConfig, dataset: SegmentationDataset) -> Predictor:
    """Whole-volume inference by a run's configuration.

    Args:
        network: the network, merged or not.
        config: of the run.
        dataset: for classes and mirror axes.

    Raises:
        UserError: see `Predictor` and `check_second_look`.
    """
    check_second_look(config.inference.second_look, dataset.preparation.intensity)
    return Predictor(
        network,
        window=window_of(config),
        classes=dataset.task.out_channels,
        overlap=config.inference.overlap,
        batch_size=config.inference.batch_size,
        shift=config.inference.shift,
        mirror_axes=dataset.task.mirror_axes(config.data.augmentation.mirror_axes) if config.inference.mirror else (),
        mirror_pairs=dataset.task.mirror_pairs,
        second_look=config.inference.second_look,
        precision=config.inference.precision,
    )


def clearing_for(config: DictConfig) -> Clearing:
    """Rules for pieces by a run's configuration."""
    return Clearing(*(config.inference[key] for key in Clearing._fields))


def segmenter(runs: Run | str | Path | Sequence[Run | str | Path]) -> Segmenter:
    """Segmenter of a run, or of an ensemble: folds or seeds of one task.

    Classes are matched by structures and label values, whatever their order.

    Args:
        runs: a run or its directory, or several.

    Raises:
        UserError: no run, or runs of different classes, image channels, preparation or training spacing.
    """
    given = [runs] if isinstance(runs, Run | str | Path) else runs
    loaded = [run if isinstance(run, Run) else load_run(run) for run in given]
    if not loaded:
        raise UserError("no run is given: one is needed, or several to average")
    first = loaded[0]
    for other in loaded[1:]:
        for what, get in _MUST_AGREE.items():
            if get(other) != get(first):
                raise UserError(
                    f"{other.directory} cannot be averaged with {first.directory}: they differ in {what} "
                    f"({get(other)} and {get(first)})"
                )
        own, theirs = first.spacing, other.spacing
        if own is not None and theirs is not None and not own.covers(theirs.median):
            sizes = " and ".join(" x ".join(f"{side:.3g}" for side in spacing.median) for spacing in (theirs, own))
            raise UserError(f"{other.directory} cannot be averaged with {first.directory}: trained on {sizes} mm")
    return Segmenter(
        predictors=[_in_order(run, first.dataset.task) for run in loaded],
        task=first.dataset.task,
        modalities=first.dataset.modalities,
        preparation=first.dataset.preparation,
        spacing=first.spacing,
        analyze_axes=first.dataset.analyze_axes,
        clearing=clearing_for(first.config),
        typical=_widest([run.typical for run in loaded]),
    )


def _in_order(run: Run, task: Task) -> Predictor:
    """Predictor of a run, with its classes in the order of `task`."""
    own = {frozenset(raw): index for index, raw in run.dataset.task.classes.items()}
    predictor = run.predictor()
    predictor.order = (0, *(own[frozenset(task.classes[index])] for index in sorted(task.classes)))
    return predictor


def _widest(seen: Sequence[Ranges]) -> Ranges:
    """Ranges over the training images of all runs, of the facts that all of them note."""
    names = [name for name in seen[0] if all(name in other for other in seen)]
    return {name: [min(s[name][0] for s in seen), max(s[name][1] for s in seen)] for name in names}


def _meaning(run: Run) -> dict[str, list[list[int]]]:
    """Label values of the classes of each structure."""
    task = run.dataset.task
    return {name: sorted(sorted(task.classes[i]) for i in own) for name, own in sorted(task.structures.items())}


_MUST_AGREE = {
    "data set": lambda run: run.dataset.name,
    "the label values of their structures": _meaning,
    "image channels": lambda run: ", ".join(run.dataset.modalities),
    "preparation": lambda run: run.dataset.preparation,
}


def predict(runs: Run | str | Path | Sequence[Run | str | Path], image: Channels) -> SpatialImage:
    """Label map of an image by a run, or by the mean probabilities of an ensemble: folds or seeds of one task.

    Args:
        runs: a run or its directory, or several.
        image: see `Segmenter.predict`.

    Raises:
        UserError: see `segmenter` and `Segmenter.predict`.
    """
    return segmenter(runs).predict(image)
