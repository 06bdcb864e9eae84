"""Base class of the data sets. A new one says where its files lie and what its labels mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tcurlora_seg.data.datasets.root import DataRoot
from tcurlora_seg.data.manifest import Case, Manifest
from tcurlora_seg.data.notes import note
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from tcurlora_seg.data.augmentation import Augmentation
    from tcurlora_seg.data.augmentation.strong import StrongAugmentation
    from tcurlora_seg.data.preparation import Preparation
    from tcurlora_seg.data.prepared import PreparedCase
    from tcurlora_seg.data.spacing import TrainingSpacing
    from tcurlora_seg.data.typical import Facts


class SegmentationDataset(DataRoot):
    """Data set: images and labels under one root. Nothing heavy is imported until a volume is read.

    Attributes:
        tasks: by name.
        known_labels: every value that a label file may hold.
        all_modalities: those to choose from.
        extent_mm: least and most that an image's voxels above 0 may span along an axis; None where it may be anything.
        grid_hint: to be added where an image and a label lie on different grids.
        analyze_axes: where the axes of Analyze files run to, see `read_volume`.
        remembered: arguments that a run adds to its configuration, so that this can be built without its files.
    """

    tasks: Mapping[str, Task]
    known_labels: Collection[int]
    all_modalities: tuple[str, ...]
    extent_mm: ClassVar[tuple[float, float] | None] = (80.0, 260.0)  # a brain, or a whole head in its field of view
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
        """A choice of task and modalities.

        Args:
            root: the folder.
            task: one of `tasks`.
            manifest: its file; None for manifest.json in the root, or for what lies there.
            modalities: of `all_modalities`.
            preparation: of the images.
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
        super().__init__(root=root, manifest=manifest, outside_root=outside_root)
        self.task = self.tasks[task]
        self.modalities = tuple(modalities)
        self.preparation = preparation
        self._headers: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}

    def _check_tomography(self) -> None:
        """Check that CT is scaled by a window.

        Raises:
            UserError: it is not.
        """
        if any(name.partition("_")[0] == "ct" for name in self.modalities) and self.preparation.intensity == "zscore":
            raise UserError(
                f"{self.task.name} is CT, whose values below 0 are no background: give "
                "dataset.preparation.crop_to_brain=false dataset.preparation.intensity=window "
                "dataset.preparation.limits=[low,high] in Hounsfield units"
            )

    @property
    def channels(self) -> dict[str, int]:
        """Channels of a network for this task: of its image, and of its output with the background."""
        return {"in_channels": len(self.modalities), "out_channels": self.task.out_channels}

    @abstractmethod
    def label_hint(self, strange: Sequence[float]) -> str:
        """Hint for unknown label values, which ends the message."""

    def adopt(self, manifest: Manifest) -> None:
        super().adopt(manifest)
        self._headers = {}

    def settings(self) -> dict[str, Any]:
        """Everything that a prepared case depends on besides its files: all arguments but the places."""
        places = ("root", "manifest_path", "crosswalk", "outside_root")
        return {name: value for name, value in vars(self).items() if not name.startswith("_") and name not in places}

    def training_sizes(self, ids: Iterable[str]) -> list[tuple[float, ...]]:
        """Voxel sizes, mm, that a network sees in training on these cases."""
        return [size for _, size in self.check_headers(ids).values()]

    def check_headers(self, ids: Iterable[str]) -> dict[str, tuple[tuple[int, ...], tuple[float, ...]]]:
        """Shape and voxel size of every case by its headers; the shapes of its files are compared.

        Every header is read once: during a long training the files may go away.

        Raises:
            UserError: an image and a label of different shape, or a file that cannot be read.
        """
        from tcurlora_seg.data.volume import read_header

        ids = list(ids)
        for id in ids:
            if id in self._headers:
                continue
            first, *others = self._used_paths(self.manifest().case(id))
            header = read_header(self.root / first)
            for path in others:
                shape, _ = read_header(self.root / path)
                if shape != header[0]:
                    raise UserError(
                        f"case {id}: {first} has the shape {header[0]}, but {path} has {shape}; "
                        "images and label of a case share one grid"
                    )
            self._headers[id] = header
        return {id: self._headers[id] for id in ids}

    def prepare(self, id: str, spacing: TrainingSpacing | None = None) -> PreparedCase:
        """A case, read and prepared.

        Args:
            id: of the case.
            spacing: voxel sizes that a network was trained on, for a case that it did not see; see `fitting`.

        Raises:
            UserError: unreadable files, other grids, unknown label values, empty images.
        """
        from tcurlora_seg.data.prepared import Volume, prepare_case

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
        """The parts of a prepared case that `sample` needs: image, label, `foreground_spots` and the voxel size in mm.

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
        label = volume["label"]
        counts = label.flatten().bincount(minlength=256)[: self.task.out_channels].tolist()  # none that is ignored
        counts[0] = label.numel() - sum(counts[1:])
        return tuple(label.shape[1:]), counts

    def facts(self, volume: Mapping[str, Any]) -> Facts:
        """Measures of a `training_volume`: of its image and of its structures."""
        from tcurlora_seg.data.typical import image_facts, result_facts

        image, label, sizes = volume["image"].numpy(), volume["label"][0].numpy(), volume["spacing"]
        return image_facts(image, sizes, self.modalities) | result_facts(label, sizes, self.task.structures)

    def sample(
        self,
        volume: Mapping[str, Any],
        *,
        crop: Sequence[int],
        augmentation: Augmentation | StrongAugmentation,
        g: Generator,
    ) -> tuple[Tensor, Tensor]:
        """One training sample of a `training_volume`.

        Args:
            volume: as `training_volume` gives it.
            crop: size of the sample.
            augmentation: draws it.
            g: source of every draw.

        Returns:
            image (C, *crop) float32 and label (1, *crop) uint8.
        """
        drawn = self.drawn(volume, crop, g)
        return augmentation(**drawn, crop=crop, mirror_pairs=self.task.mirror_pairs, g=g)

    def drawn(self, volume: Mapping[str, Any], crop: Sequence[int], g: Generator) -> Mapping[str, Any]:
        """Arguments of the augmentation for one sample; the volume itself where images are read from files.

        Args:
            volume: as `training_volume` gives it.
            crop: size of the sample.
            g: source of every draw.
        """
        return volume

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
            UserError: another value.
        """
        import numpy as np

        strange = [value for value in np.unique(raw).tolist() if value not in self.known_labels]
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
