"""What all data sets share. A new one says where its files lie and what its labels mean."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.known_defects import known_defects
from tcurlora_seg.data.manifest import (
    SIMULATED,
    Case,
    Manifest,
    Split,
    check,
    check_inside,
    manifest_path,
    read_manifest,
)
from tcurlora_seg.data.notes import note
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import PreparedCase, Volume, prepare_case
from tcurlora_seg.data.spacing import TrainingSpacing
from tcurlora_seg.data.split import draw_split
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from tcurlora_seg.data.augmentation import Augmentation
    from tcurlora_seg.data.augmentation.strong import StrongAugmentation

log = logging.getLogger(__name__)


class SegmentationDataset(ABC):
    """Images and labels under one root.

    Nothing heavy is imported until a volume is read, so `check_root` and `split` can be asked while a configuration
    is checked.

    Attributes:
        name: as in `dataset=`.
        source: one line on where the real data come from and on what terms.
        layout: what is looked for under the root, for messages.
        tasks: by name.
        known_labels: every value that a label file may hold.
        all_modalities: what there is to choose from.
        paper_split: sizes of train and val of the paper's split, see `draw_split`; None for data that it does not have.
        own_split: the name of the lists that may come with the files; None where none do.
        extent_mm: least and most that an image's voxels above 0 may span along an axis; None where it may be anything.
        shares_patients_with: the data set that has some of these patients too, see `leakage`; None for none.
        crosswalk: the file that says which, if the user gave it.
        grid_hint: what to say of images and labels on different grids.
        analyze_axes: where the axes of Analyze files run to, see `read_volume`.
        remembered: arguments that a run adds to its configuration, so that this can be built without its files.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    layout: str
    tasks: Mapping[str, Task]
    known_labels: frozenset[int]
    all_modalities: tuple[str, ...]
    paper_split: ClassVar[tuple[float, float] | None] = None
    own_split: ClassVar[str | None] = None
    extent_mm: ClassVar[tuple[float, float] | None] = (80.0, 260.0)  # a brain, or a whole head in its field of view
    shares_patients_with: ClassVar[str | None] = None
    crosswalk: str | None = None
    grid_hint: ClassVar[str] = ""
    analyze_axes: str = "LAS"
    remembered: Mapping[str, Any] = {}

    def __init__(
        self,
        *,
        root: str,
        task: str,
        manifest: str | None,
        modalities: Sequence[str],
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        """Check the choice of task and modalities.

        Args:
            root: the folder.
            task: one of `tasks`.
            manifest: its file; None for manifest.json in the root, or for what lies there.
            modalities: of `all_modalities`.
            preparation: what is done to an image.
            outside_root: whether links and absolute paths may lead out of the root.

        Raises:
            UserError: an unknown task or modality.
        """
        if task not in self.tasks:
            raise UserError(f"dataset.task={task} is not a task of {self.name}; expected {' or '.join(self.tasks)}")
        unknown = [m for m in modalities if m not in self.all_modalities]
        if unknown or not modalities:
            expected = ", ".join(self.all_modalities)
            raise UserError(f"dataset.modalities={list(modalities)}: {self.name} has {expected}; give at least one")
        self.root = Path(root).expanduser()
        self.task = self.tasks[task]
        self.modalities = tuple(modalities)
        self.preparation = preparation
        self.manifest_path, self.outside_root = manifest, outside_root
        self._manifest: Manifest | None = None
        self._headers: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}

    def _check_tomography(self) -> None:
        """Check that CT is scaled by a window.

        Raises:
            UserError: it is not.
        """
        if "ct" in self.modalities and self.preparation.intensity == "zscore":
            raise UserError(
                f"{self.task.name} is CT, whose values below 0 are no background: give "
                "dataset.preparation.crop_to_brain=false dataset.preparation.intensity=window "
                "dataset.preparation.limits=[low,high] in Hounsfield units"
            )

    @property
    def channels(self) -> dict[str, int]:
        """The channels of a network for this task: of its image, and of its output with the background."""
        return {"in_channels": len(self.modalities), "out_channels": self.task.out_channels}

    @property
    def cohort(self) -> str:
        """What a network that was trained on these images notes as their origin, see `leakage`."""
        return self.name

    @abstractmethod
    def find_cases(self) -> Found:
        """The cases under the root, by the data set's on-disk layout; empty if there are none.

        A case with a file missing is left out; files that belong to no case are skipped.

        Raises:
            UserError: a layout that cannot be used.
        """

    @abstractmethod
    def label_hint(self, strange: Sequence[float]) -> str:
        """What to say about label values that are not known."""

    def check_root(self) -> None:
        """Check that the root is there and holds something.

        Raises:
            UserError: it does not; the text says where the data come from and how to simulate a cohort.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"dataset.root={self.root} is a file; expected the folder that holds {self.layout}")
        try:
            empty = not self.root.is_dir() or not any(self.root.iterdir())
        except OSError as error:
            raise UserError(
                f"dataset.root={self.root.absolute()} cannot be read: {error.strerror}; ask for permission to it"
            ) from error
        if empty:
            state = "is empty" if self.root.is_dir() else "does not exist"
            raise UserError(f"{self.name}: dataset.root={self.root.absolute()} {state}. {self._advice()}")

    def manifest(self) -> Manifest:
        """The cohort: from `dataset.manifest`, else from `manifest_path`, or else found on disk.

        Raises:
            UserError: as `check_root`, `find_cases` and `read_manifest`.
        """
        if self._manifest is None:
            self.check_root()
            path = Path(self.manifest_path) if self.manifest_path else manifest_path(self.name, self.root)
            if path is not None:
                found = read_manifest(path, self.root, outside=self.outside_root)
                if found.dataset != self.name:
                    raise UserError(f"{path} is a manifest of {found.dataset}, not of {self.name}")
            else:
                found = self._found_manifest()
            self.adopt(found)
        assert self._manifest is not None
        return self._manifest

    def unlisted(self) -> list[str]:
        """The cases that lie on disk and that the manifest does not know; none where the cohort was found on disk."""
        if not self.manifest_path and manifest_path(self.name, self.root) is None:
            return []
        manifest = self.manifest()
        known = {*(case.id for case in manifest.cases), *manifest.excluded}
        try:
            return [case.id for case in self.find_cases().cases if case.id not in known]
        except UserError:  # a manifest may list files in another layout
            return []

    def _found_manifest(self) -> Manifest:
        found = self.find_cases()
        found = found.without(known_defects(self.name, found.cases))
        if found.cases and found.left_out:
            id, reason = next(iter(found.left_out.items()))
            log.warning("%s: %d case(s) left out, the first %s: %s", self.name, len(found.left_out), id, reason)
        manifest = Manifest(self.name, found.cases, found.splits, found.left_out)
        self.check(manifest)
        return manifest

    def check(self, manifest: Manifest) -> None:
        """Check what can be said of a manifest of this root without opening a file; see `check` and `check_inside`."""
        name = self.manifest_path or self.root
        check(manifest, name, outside=self.outside_root)
        if not self.outside_root:
            check_inside(manifest.cases, self.root, name)

    def adopt(self, manifest: Manifest) -> None:
        """Take this manifest for the cohort under the root.

        Raises:
            UserError: it lists no case.
        """
        if not manifest.cases:
            place = self.root.absolute()
            if manifest.excluded:
                id, reason = next(iter(manifest.excluded.items()))
                unusable = f"none of {len(manifest.excluded)} case(s) under {place} can be used"
                raise UserError(f"{self.name}: {unusable}; the first, {id}: {reason}")
            raise UserError(f"{self.name}: nothing under dataset.root={place} like {self.layout}. {self._advice()}")
        if manifest.simulated is None and (self.root / SIMULATED).is_file():
            manifest = replace(manifest, simulated={"marker": SIMULATED})  # whatever became of its own manifest
        self._manifest, self._headers = manifest, {}

    def split(
        self,
        *,
        scheme: str | None = None,
        fold: int = 0,
        folds: int = 5,
        shots: int = 5,
        seed: int = 0,
        validation: int = 0,
        leave_out: int | None = None,
        test: int | None = None,
    ) -> Split:
        """Divide this cohort; see `draw_split`. Without a scheme by the paper's proportions, where it has such data.

        Lists that came with the files are not passed over in silence, nor that a draw leaves one case to train on.
        """
        lists = self.manifest().splits
        scheme = scheme or ("holdout" if self.paper_split is None else "paper")
        if scheme in ("paper", "holdout") and scheme not in lists and self.own_split in lists:
            log.warning(
                "%s: split.scheme=%s draws the test cases; split.scheme=%s takes the lists that came with the files",
                self.name, scheme, self.own_split,
            )  # fmt: skip
        split = draw_split(
            self.manifest(),
            scheme=scheme,
            fold=fold,
            folds=folds,
            shots=shots,
            seed=seed,
            validation=validation,
            leave_out=leave_out,
            test=test,
            paper=self.paper_split,
        )
        if len(split.train) < 2 and scheme != "shots":
            log.warning(
                "%s: split.scheme=%s trains on one case alone and tests on %d; split.scheme=shots takes split.shots",
                self.name, scheme, len(split.test),
            )  # fmt: skip
        return split

    def settings(self) -> dict[str, Any]:
        """All that a prepared case depends on besides its files: every argument but where they lie."""
        places = ("root", "manifest_path", "crosswalk", "outside_root")
        return {name: value for name, value in vars(self).items() if not name.startswith("_") and name not in places}

    def check_headers(self, ids: Iterable[str]) -> dict[str, tuple[tuple[int, ...], tuple[float, ...]]]:
        """Compare the shapes of every case's files by their headers; give shape and voxel size by case.

        Every header is read once: during a long training the files may go away.

        Raises:
            UserError: an image and a label of different shape, or a file that cannot be read.
        """
        from tcurlora_seg.data.volume import read_header

        ids, manifest = list(ids), self.manifest()
        for id in ids:
            if id in self._headers:
                continue
            case = manifest.case(id)
            paths = self._used_paths(case)
            found = {path: read_header(self.root / path) for path in paths}
            first = paths[0]
            for path in paths[1:]:
                if found[path][0] != found[first][0]:
                    raise UserError(
                        f"case {id}: {first} has the shape {found[first][0]}, but {path} has {found[path][0]}; "
                        "images and label of a case share one grid"
                    )
            self._headers[id] = found[first]
        return {id: self._headers[id] for id in ids}

    def prepare(self, id: str, spacing: TrainingSpacing | None = None) -> PreparedCase:
        """Read and prepare one case.

        Args:
            id: of the case.
            spacing: voxel sizes that a network was trained on, for a case that it did not see; see `fitting`.

        Raises:
            UserError: unreadable files, other grids, unknown label values, empty images.
        """
        case = self.manifest().case(id)
        self._used_paths(case)
        raw, affine = self.read_label(case)
        self.check_label(raw, affine, case.label_paths[0])
        channels = [Volume(*parts) for parts in self.read_images(case)]
        return prepare_case(
            channels[: len(self.modalities)],
            Volume(case.label_paths[0], self.task.class_indices(raw), affine),
            preparation=self.preparation,
            spacing=spacing,
            case=case.id,
            patient=case.patient,
            mask=channels[-1] if case.mask else None,
            hint=self.grid_hint,
        )

    def training_volume(self, id: str) -> dict[str, Any]:
        """What is kept of a case for `sample`: image, label, `foreground_spots` and the voxel size in mm.

        Raises:
            UserError: as `prepare`.
        """
        import torch

        from tcurlora_seg.data.augmentation.crop import foreground_spots
        from tcurlora_seg.data.structures import shrunken

        case = self.prepare(id)
        image, label = (volume.as_tensor().contiguous() for volume in (case.image, case.label))
        label = label.to(torch.uint8)
        for line in shrunken(case, self.task):
            note("shrunken", f"case {id}: {line}")
        return {"image": image, "label": label, "spots": foreground_spots(label), "spacing": case.image.pixdim.tolist()}

    def census(self, volume: Mapping[str, Any]) -> tuple[tuple[int, ...], list[int]]:
        """Shape of a `training_volume`, and the voxels of every class in it, background first."""
        label, counts = volume["label"], [0] * self.task.out_channels
        for spots in volume["spots"]:
            index = int(label.flatten()[spots[0]])
            if index < len(counts):  # not where a voxel is to be ignored
                counts[index] = len(spots)
        counts[0] = label.numel() - sum(counts)
        return tuple(label.shape[1:]), counts

    def sample(
        self,
        volume: Mapping[str, Any],
        *,
        crop: Sequence[int],
        augmentation: Augmentation | StrongAugmentation,
        g: Generator,
    ) -> tuple[Tensor, Tensor]:
        """One training sample of a `training_volume`: image (C, *crop) float32 and label (1, *crop) uint8."""
        return augmentation(**volume, crop=crop, mirror_pairs=self.task.mirror_pairs, g=g)

    def read_images(self, case: Case) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Path, voxels and affine of the channels, in their order, and then of the brain mask if there is one.

        Modalities with the same path are the volumes of that one file, in the order of `case.images`.

        Raises:
            UserError: an unreadable file, or one with more or fewer volumes.
        """
        from tcurlora_seg.data.volume import read_series, read_volume

        read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for modality in self.modalities:
            path = case.images[modality]
            if path not in read:
                read[path] = read_series(self.root / path, self.analyze_axes)
            series, affine = read[path]
            held = [other for other, place in case.images.items() if place == path]
            if series.shape[3] != len(held):
                count, names = series.shape[3], ", ".join(held)
                raise UserError(f"case {case.id}: {path} holds {count} volume(s); expected {len(held)} ({names})")
            yield path, series[..., held.index(modality)], affine
        if case.mask:
            yield case.mask, *read_volume(self.root / case.mask, self.analyze_axes)

    def read_label(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """The label as one volume of the data set's own values, and its affine to RAS mm.

        Raises:
            UserError: an unreadable file.
        """
        from tcurlora_seg.data.volume import read_volume, whole_numbers

        (path,) = case.label_paths
        raw, affine = read_volume(self.root / path, self.analyze_axes)
        return whole_numbers(raw, path), affine

    def check_label(self, raw: np.ndarray, affine: np.ndarray, source: str) -> None:
        """Check a label as stored: every value is one of this data set.

        Args:
            raw: (X, Y, Z) as stored.
            affine: to RAS mm.
            source: the file, for messages.

        Raises:
            UserError: it is not what it should be.
        """
        import numpy as np

        strange = sorted(set(np.unique(raw).tolist()) - self.known_labels)
        if strange:
            shown = ", ".join(str(value) for value in strange[:8]) + (" ..." if len(strange) > 8 else "")
            raise UserError(f"{source}: label values {shown} are not of {self.name}; {self.label_hint(strange)}")

    def _used_paths(self, case: Case) -> list[str]:
        """Images in the order of the channels, then the files of the label and the brain mask."""
        missing = [m for m in self.modalities if m not in case.images]
        if missing or case.label is None:
            raise UserError(f"case {case.id} of {self.name} has no {missing[0] if missing else 'label'}")
        mask = [case.mask] if case.mask else []
        return [*(case.images[m] for m in self.modalities), *case.label_paths, *mask]

    def _advice(self) -> str:
        """Where the data come from."""
        return (
            f"The real images: {self.source} A simulated cohort instead: "
            f"python scripts/prepare_data.py dataset={self.name} dataset.root=DIR simulate=12"
        )
