"""One nibabel image in, its label map out, in the image's own grid and with its header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.spacing import TrainingSpacing, fitting
from tcurlora_seg.data.task import Task
from tcurlora_seg.data.volume import centred_affine, turn_to
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.native import native_probabilities, remove_small, segment
from tcurlora_seg.inference.windows import Predictor

Channels = SpatialImage | Sequence[SpatialImage] | Mapping[str, SpatialImage]
"""An image, whose fourth axis holds the channels where there are several; or one image a channel, in their order or by
their names."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """One network or several, with everything that lies between a file and a label map.

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
        channels = self._channels(image, source)
        affine, arrays = self._read([*channels, *([] if mask is None else [mask])], source)
        if mask is not None:
            brain = arrays.pop() > 0
            arrays = [array * brain for array in arrays]
        preparation = fitting(self.preparation, self.spacing, affine)
        stacked = torch.from_numpy(np.stack(arrays))
        prepared = preparation(MetaTensor(stacked, affine=torch.from_numpy(affine)), None, source)["image"]
        native, _, found = segment(self.predictors, prepared, preparation, keep=probabilities)
        native = remove_small(native, self.task, nib.affines.voxel_sizes(affine), self.minimum_ml, source)
        values = label_values(self.task)
        table = np.array([0, *(values[c] for c in sorted(values))], dtype=label_dtype(values))
        label = image_like(channels[0], table[native], affine, intent="label")
        if found is None:
            return label, None
        return label, image_like(channels[0], native_probabilities(found, prepared, preparation), affine)

    def _channels(self, image: Channels, source: str) -> list[SpatialImage]:
        wanted = ", ".join(self.modalities)
        if isinstance(image, Mapping):
            missing = [m for m in self.modalities if m not in image]
            if missing:
                raise UserError(f"{source} has no {missing[0]}; the network sees {wanted}")
            return [image[m] for m in self.modalities]
        channels = volumes(image) if isinstance(image, SpatialImage) else list(image)
        if len(channels) != len(self.modalities):
            raise UserError(f"{source}: {len(channels)} image(s) given; the network sees {wanted}, one image each")
        return channels

    def _read(self, channels: Sequence[SpatialImage], source: str) -> tuple[NDArray[np.float64], list[NDArray]]:
        """The affine of the first channel, and all of them with their axes along its own."""
        arrays: list[NDArray] = []
        first = self._affine(channels[0])
        if abs(np.linalg.det(first[:3, :3])) < 1e-9:
            raise UserError(f"{source}: its affine flattens the volume; the header needs repair")
        for channel in channels:
            array = np.asanyarray(channel.dataobj)
            while array.ndim > 3 and array.shape[-1] == 1:
                array = array[..., 0]
            if array.ndim != 3:
                raise UserError(f"{source} has the shape {array.shape}; expected a volume with three axes")
            array, affine = turn_to(array, self._affine(channel), first)
            if arrays and (array.shape != arrays[0].shape or not np.allclose(affine, first, atol=0.01)):
                raise UserError(f"{source}: its images lie on different grids (shape or affine differ)")
            arrays.append(array.astype(np.float32))
        return first, arrays

    def _affine(self, image: SpatialImage) -> NDArray[np.float64]:
        """To RAS mm; Analyze does not say where its axes run."""
        if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair):
            return centred_affine(image.shape[:3], image.header.get_zooms()[:3], self.analyze_axes)
        return np.asarray(image.affine, dtype=np.float64)


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
