"""One nibabel image in, its label map out, in the image's own grid and with its header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import Volume, prepare_image
from tcurlora_seg.data.spacing import TrainingSpacing
from tcurlora_seg.data.task import Task
from tcurlora_seg.data.volume import open_volume, series_of
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.native import native_probabilities, segment
from tcurlora_seg.inference.windows import Predictor

Image = SpatialImage | str | Path
Channels = Image | Sequence[Image] | Mapping[str, Image]
"""An image or the path of one, whose fourth axis holds the channels where there are several; or one a channel, in their
order or by their names."""


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """One network or an ensemble, with everything that lies between an image and its label map.

    Attributes:
        predictors: their probabilities are averaged.
        task: the meaning of the classes.
        modalities: image channels, in order.
        preparation: what is done to an image.
        spacing: voxel sizes of the training images, see `fitting`.
        analyze_axes: see `read_volume`.
        minimum_ml: see `remove_small`.
    """

    predictors: Sequence[Predictor]
    task: Task
    modalities: tuple[str, ...]
    preparation: Preparation
    spacing: TrainingSpacing | None
    analyze_axes: str
    minimum_ml: Any

    def predict(self, image: Channels, source: str = "the image") -> SpatialImage:
        """The label map (X, Y, Z) of an image, with the values of `label_values`.

        Grid, affine and header codes are the image's, trailing axes of one are dropped; Analyze comes back as NIfTI.

        Args:
            image: skull-stripped where the training images were; channels share one grid.
            source: its file, for messages.

        Raises:
            UserError: channels missing or on different grids, an image that cannot be segmented.
        """
        return self.run(image, source)[0]

    def run(
        self,
        image: Channels,
        source: str = "the image",
        *,
        mask: SpatialImage | None = None,
        probabilities: bool = False,
    ) -> tuple[SpatialImage, SpatialImage | None]:
        """As `predict`, and where asked for the probabilities (X, Y, Z, K) float32, background first.

        What is 0 in `mask`, as a skull may be, is cut out of the channels, as in training.
        """
        source = str(image) if isinstance(image, str | Path) else source
        channels = self._channels(image, source)
        volumes = [self._volume(channel, source) for channel in channels]
        case = prepare_image(
            volumes, preparation=self.preparation, spacing=self.spacing, case=source,
            mask=None if mask is None else self._volume(mask, source),
        )  # fmt: skip
        found = segment(self.predictors, case, self.task, self.minimum_ml, keep=probabilities)
        values = label_values(self.task)
        table = np.array([0, *(values[c] for c in sorted(values))], dtype=label_dtype(values))
        label = image_like(channels[0], table[found.native], case.affine, intent="label")
        if found.probabilities is None:
            return label, None
        classes = native_probabilities(found.probabilities, case.image, case.preparation)
        return label, image_like(channels[0], classes, case.affine)

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
        one = isinstance(image, SpatialImage | str | Path)
        channels = volumes(_opened(image)) if one else [_opened(channel) for channel in image]
        if len(channels) != len(self.modalities):
            raise UserError(f"{source}: {len(channels)} image(s) given; the network sees {wanted}, one image each")
        return channels


def _opened(image: Image) -> SpatialImage:
    return image if isinstance(image, SpatialImage) else open_volume(Path(image))


def volumes(image: SpatialImage) -> list[SpatialImage]:
    """The volumes (X, Y, Z) of an image, in their order: several where its file holds channels on a fourth axis."""
    array = np.asanyarray(image.dataobj)
    if array.ndim <= 3:
        return [image]
    array = array.reshape(*array.shape[:3], -1)
    return [type(image)(array[..., i], image.affine, image.header) for i in range(array.shape[3])]


def label_values(task: Task) -> dict[int, int]:
    """Class index -> value in a label map: the data set's own, or the index where a class merges several of them."""
    if all(len(raw) == 1 for raw in task.classes.values()):
        return {index: raw[0] for index, raw in task.classes.items()}
    return {index: index for index in task.classes}


def label_dtype(values: Mapping[int, int]) -> type[np.unsignedinteger]:
    """The smallest of uint8 and uint16 that holds the values."""
    return np.uint8 if max(values.values()) < 256 else np.uint16


def describe_labels(task: Task) -> dict[str, Any]:
    """What the values of a label map mean, for the `labels.json` beside it."""
    values = label_values(task)
    meanings = {str(values[c]): {"class": c, "labels_of_the_data_set": list(raw)} for c, raw in task.classes.items()}
    return {
        "task": task.name,
        "values": meanings,
        "structures": {name: [values[c] for c in classes] for name, classes in task.structures.items()},
    }


def image_like(image: SpatialImage, data: NDArray, affine: NDArray, *, intent: str = "none") -> SpatialImage:
    """Data with the affine, the units and the q- and s-form codes of a NIfTI image, and its class; else NIfTI-1.

    Scaling, display range, descriptions and extensions stay behind: they belong to the image's intensities.
    """
    kind = type(image) if isinstance(image, nib.Nifti1Image) else nib.Nifti1Image
    header = kind.header_class()
    if isinstance(image, nib.Nifti1Pair):
        source = image.header
        for key in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
                    "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"):  # fmt: skip
            header[key] = source[key]
        header["pixdim"][:4] = source["pixdim"][:4]
    header.set_data_dtype(data.dtype)
    header.set_intent(intent)
    return kind(data, affine, header)
