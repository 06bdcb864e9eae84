"""Segmentation of a nibabel image: a label map on its grid, with its header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import Volume, prepare_image
from tcurlora_seg.data.spacing import TrainingSpacing
from tcurlora_seg.data.task import Task
from tcurlora_seg.data.typical import Facts, Ranges, image_facts, result_facts, unusual
from tcurlora_seg.data.volume import open_volume, series_of
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json
from tcurlora_seg.inference.native import native_probabilities, segment
from tcurlora_seg.inference.pieces import NOTHING, Clearing
from tcurlora_seg.inference.windows import Predictor

Image = SpatialImage | str | Path
Channels = Image | Sequence[Image] | Mapping[str, Image]
"""An image or its path, with several channels on the fourth axis; or an image a channel, in order or by modality."""


class Prediction(NamedTuple):
    """Label map with its facts.

    Attributes:
        label: (X, Y, Z), with the values of `label_values`.
        probabilities: (X, Y, Z, K) float32, background first; None unless asked for.
        facts: see `result_facts`.
        spacing: voxel size of the network's input in mm, along right, front and top.
        orientation: of the image's own axes, such as RAS.
        unusual: remarks on image and result, see `data.typical.unusual`.
    """

    label: SpatialImage
    probabilities: SpatialImage | None
    facts: Facts
    spacing: tuple[float, ...]
    orientation: str
    unusual: list[str]


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """Network or ensemble, with all steps from an image to its label map.

    Attributes:
        predictors: their probabilities are averaged.
        task: the meaning of the classes.
        modalities: image channels, in order.
        preparation: preprocessing of an image.
        spacing: voxel sizes of the training images, see `fitting`.
        analyze_axes: see `read_volume`.
        clearing: rules for pieces.
        typical: ranges over the training images, see `unusual`.
    """

    predictors: Sequence[Predictor]
    task: Task
    modalities: tuple[str, ...]
    preparation: Preparation
    spacing: TrainingSpacing | None
    analyze_axes: str
    clearing: Clearing = NOTHING
    typical: Ranges = field(default_factory=dict)

    def predict(self, image: Channels, source: str = "the image") -> SpatialImage:
        """Label map (X, Y, Z) of an image, with the values of `label_values`.

        Grid, affine and header codes are the image's, trailing axes of one are dropped; Analyze comes back as NIfTI.

        Args:
            image: skull-stripped where the training images were; channels share one grid.
            source: its file, for messages.

        Raises:
            UserError: channels missing or on different grids, an image that cannot be segmented.
        """
        return self.run(image, source).label

    def run(
        self,
        image: Channels,
        source: str = "the image",
        *,
        mask: SpatialImage | None = None,
        probabilities: bool = False,
        strict: bool = False,
    ) -> Prediction:
        """Label map with its facts; see `predict`.

        Args:
            image: see `predict`.
            source: see `predict`.
            mask: brain mask; channels are set to 0 where it is 0, as in training.
            probabilities: whether to return them, too.
            strict: refuse an image or a result that is `unusual`.

        Raises:
            UserError: see `predict`; with `strict` something unusual.
        """
        source = str(image) if isinstance(image, str | Path) else source
        channels = self._channels(image, source)
        volumes = [self._volume(channel, source) for channel in channels]
        case = prepare_image(
            volumes, preparation=self.preparation, spacing=self.spacing, case=source,
            mask=None if mask is None else self._volume(mask, source),
        )  # fmt: skip
        spacing = voxel_sizes(case.image.affine.numpy())
        seen = image_facts(case.image.numpy(), spacing, self.modalities)
        _refuse(unusual(seen, self.typical), source, strict)
        found = segment(self.predictors, case, self.task, self.clearing, keep=probabilities)
        facts = result_facts(found.native, voxel_sizes(case.affine), self.task.structures)
        remarks = unusual(seen | facts, self.typical)
        _refuse(remarks, source, strict)
        values = label_values(self.task)
        table = np.array([0, *(values[c] for c in sorted(values))], dtype=label_dtype(values))
        label = image_like(channels[0], table[found.native], case.affine, intent="label")
        classes = None
        if found.probabilities is not None:
            native = native_probabilities(found.probabilities, case.image, case.preparation)
            classes = image_like(channels[0], native, case.affine)
        orientation = "".join(nib.aff2axcodes(case.affine))
        return Prediction(label, classes, facts, tuple(spacing.tolist()), orientation, remarks)

    def _volume(self, image: SpatialImage, source: str) -> Volume:
        series, affine = series_of(image, source, self.analyze_axes)
        if series.shape[3] != 1:
            raise UserError(f"{source} has the shape {series.shape}; expected a volume with three axes")
        return Volume(source, series[..., 0], affine)

    def _channels(self, image: Channels, source: str) -> list[SpatialImage]:
        wanted = ", ".join(self.modalities)
        if isinstance(image, Mapping):
            missing = [m for m in self.modalities if m not in image]
            if missing:
                raise UserError(f"{source} has no {missing[0]}; the network sees {wanted}")
            return [_opened(image[m]) for m in self.modalities]
        if isinstance(image, SpatialImage | str | Path):
            channels = volumes(_opened(image))
        else:
            channels = [_opened(channel) for channel in image]
        if len(channels) != len(self.modalities):
            raise UserError(f"{source}: {len(channels)} image(s) given; the network sees {wanted}, one image each")
        return channels


def _opened(image: Image) -> SpatialImage:
    return image if isinstance(image, SpatialImage) else open_volume(Path(image))


def _refuse(remarks: Sequence[str], source: str, strict: bool) -> None:
    if strict and remarks:
        raise UserError(f"{source}: {'; '.join(remarks)} (strict=true)")


def volumes(image: SpatialImage) -> list[SpatialImage]:
    """Volumes (X, Y, Z) of an image: one, or the channels on its fourth axis."""
    array = np.asanyarray(image.dataobj)
    if array.ndim <= 3:
        return [image]
    array = array.reshape(*array.shape[:3], -1)
    return [type(image)(array[..., i], image.affine, image.header) for i in range(array.shape[3])]


def label_values(task: Task) -> dict[int, int]:
    """Class index -> value in a label map: the data set's own; the indices where any class merges several values."""
    if all(len(raw) == 1 for raw in task.classes.values()):
        return {index: raw[0] for index, raw in task.classes.items()}
    return {index: index for index in task.classes}


def label_dtype(values: Mapping[int, int]) -> type[np.integer]:
    """Smallest type for the values, of uint8, uint16 and int32, which all readers of NIfTI know."""
    largest = max(values.values())
    return np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32


def describe_labels(task: Task, values: Mapping[int, int] | None = None) -> dict[str, Any]:
    """Contents of `labels.json`: the meaning of the values of a label map.

    Args:
        task: of the label map.
        values: class index -> value; None for `label_values`.
    """
    values = label_values(task) if values is None else values
    meanings = {str(values[c]): {"class": c, "labels_of_the_data_set": list(raw)} for c, raw in task.classes.items()}
    return {
        "task": task.name,
        "values": meanings,
        "structures": {name: [values[c] for c in classes] for name, classes in task.structures.items()},
    }


def read_labels(path: Path, task: Task) -> dict[int, tuple[int, ...]] | None:
    """The reverse of `describe_labels`: value in a label map -> label values of its class; None where there is no file.

    Args:
        path: of a `labels.json`.
        task: whose classes it must describe.

    Raises:
        UserError: it describes other classes.
    """
    if not path.exists():
        return None
    try:
        values = read_json(path)["values"].items()
        meaning = {int(value): tuple(entry["labels_of_the_data_set"]) for value, entry in values}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not what predict.py and evaluate.py write: move it away") from error
    if {frozenset(raw) for raw in meaning.values()} != {frozenset(raw) for raw in task.classes.values()}:
        raise UserError(f"{path} describes other classes than those of {task.name}")
    return meaning


def image_like(image: SpatialImage, data: NDArray, affine: NDArray, *, intent: str = "none") -> SpatialImage:
    """Image of `data` with the class, affine, units and q- and s-form codes of a NIfTI image; otherwise NIfTI-1.

    Scaling, display range, descriptions and extensions are left out: they belong to the image's intensities.

    Args:
        image: the image to follow.
        data: (X, Y, Z) or (X, Y, Z, K).
        affine: used where `image` is no NIfTI.
        intent: NIfTI intent code.
    """
    kind = type(image) if isinstance(image, nib.Nifti1Image) else nib.Nifti1Image
    header = kind.header_class()
    if isinstance(image, nib.Nifti1Pair):
        affine = image.affine  # in the units of its own header
        source = image.header
        for key in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
                    "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"):  # fmt: skip
            header[key] = source[key]
        header["pixdim"][:4] = source["pixdim"][:4]
    header.set_data_dtype(data.dtype)
    header.set_intent(intent)
    return kind(data, affine, header)
