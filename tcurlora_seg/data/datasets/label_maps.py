"""Label maps without images: every image is synthesised, see `synthesis`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.formats import stem
from tcurlora_seg.data.manifest import Case, Split
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import Task, given_classes
from tcurlora_seg.errors import UserError
from tcurlora_seg.randomness import generator

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator

    from tcurlora_seg.data.synthesis import Synthesis
    from tcurlora_seg.data.typical import Facts


STRUCTURES = {  # the halves of the brain merged
    "white_matter": [2, 41, 77, 251, 252, 253, 254, 255],
    "cortex": [3, 42],
    "ventricles": [4, 43, 5, 44, 14, 15, 72, 31, 63],
    "cerebellum": [7, 46, 8, 47],
    "thalamus": [10, 49],
    "caudate": [11, 50],
    "putamen": [12, 51],
    "pallidum": [13, 52],
    "brain_stem": [16],
    "hippocampus": [17, 53],
    "amygdala": [18, 54],
    "accumbens": [26, 58],
    "ventral_dc": [28, 60],
}
"""What is segmented unless `classes` says otherwise: name -> FreeSurfer's values."""


class LabelMaps(SegmentationDataset):
    """Label maps with FreeSurfer's values, such as `aseg.mgz` of one's own subjects."""

    name = "label_maps"
    source = "your own segmentations by FreeSurfer, or the twenty of github.com/BBillot/SynthSeg (Apache-2.0)."
    own_split = "names"
    known_labels = range(2**15)
    all_modalities = ("synthetic",)
    extent_mm = None  # with or without a neck

    def __init__(
        self,
        *,
        root: str,
        classes: Mapping[str, int | Sequence[int]] | None = None,
        task: str = "structures",
        manifest: str | None = None,
        mirror_pairs: Sequence[Sequence[str]] | None = None,
        files: str = "*.nii.gz",
        synthesis: Synthesis,
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        """A folder of label maps; configs/dataset/label_maps.yaml describes every argument.

        Raises:
            UserError: classes that share a value, or pairs that are none of them.
        """
        merged = given_classes(STRUCTURES if classes is None else classes, mirror_pairs)
        others = {*self.known_labels} - {value for values in merged.values() for value in values}  # in the images, too
        self.tasks = {task: Task.of_classes(task, merged, mirror_pairs, others=others)}
        self.layout = files
        super().__init__(
            root=root, task=task, manifest=manifest, modalities=self.all_modalities, preparation=preparation,
            outside_root=outside_root,
        )  # fmt: skip
        self.synthesis, self.remembered = synthesis, {"classes": merged}

    def find_cases(self) -> Found:
        """Every file that fits `files`; the split `names` tests on the last fifth of them by name.

        Raises:
            UserError: `files` is no pattern below the root.
        """
        try:
            found = sorted(path for path in self.root.glob(self.layout) if not path.name.startswith("."))
        except (NotImplementedError, ValueError) as error:
            raise UserError(f"dataset.files={self.layout}: expected a pattern below dataset.root ({error})") from error
        paths = [path.relative_to(self.root) for path in found]
        names = [stem(path) for path in paths]
        if len(set(names)) < len(names):  # SUBJECT/mri/aseg.mgz
            names = ["_".join((*path.parts[:-1], name)) for path, name in zip(paths, names, strict=True)]
        cases = tuple(
            Case(name, name, dict.fromkeys(self.all_modalities, path.as_posix()), path.as_posix())
            for name, path in sorted(zip(names, paths, strict=True))
        )
        ids = tuple(case.id for case in cases)
        first = len(ids) - len(ids) // 5
        return Found(cases, splits={self.own_split: Split(ids[:first], (), ids[first:])})

    def read_images(self, case: Case) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """An image synthesised from the map as it lies; a pure function of the case."""
        import torch
        from nibabel.affines import voxel_sizes

        from tcurlora_seg.data.synthesis.draw import draw_whole

        values, affine = self.read_label(case)
        g = generator("image", case.id)
        image = draw_whole(self.synthesis, torch.from_numpy(values), voxel_sizes(affine).tolist(), g)
        yield case.label_paths[0], image.numpy(), affine

    def read_label(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Label values as int16, and the affine to RAS mm.

        Raises:
            UserError: an unreadable file, or values that are none of FreeSurfer's.
        """
        raw, affine = super().read_label(case)
        values = raw.astype("int16")
        if (values != raw).any() or values.min() < 0:
            raise UserError(f"{case.label_paths[0]} holds values outside 0 to 32767; {self.label_hint(())}")
        return values, affine

    def training_volume(self, id: str) -> dict[str, Any]:
        """The label map as an `Anatomy`, of which every sample makes an image of its own.

        Raises:
            UserError: as `read_label`, or a map without any of the classes.
        """
        import numpy as np
        import torch
        from nibabel.affines import voxel_sizes

        from tcurlora_seg.data.grid import turn_to
        from tcurlora_seg.data.synthesis.anatomy import Anatomy

        case = self.manifest().case(id)
        values, affine = turn_to(*self.read_label(case), np.eye(4))
        if not self.task.class_indices(values).any():
            raise UserError(f"case {id}: {case.label_paths[0]} holds no value of dataset.classes")
        turned = torch.from_numpy(np.ascontiguousarray(values))
        return Anatomy.of(turned, voxel_sizes(affine).tolist(), self.synthesis.focus)._asdict()

    def training_sizes(self, ids: Iterable[str]) -> list[tuple[float, ...]]:
        """Voxel sizes of the maps and, where some windows are coarse, the limits of theirs."""
        from tcurlora_seg.data.synthesis import COARSE

        return super().training_sizes(ids) + [(size,) * 3 for size in COARSE if self.synthesis.coarse]

    def census(self, volume: Mapping[str, Any]) -> tuple[tuple[int, ...], list[int]]:
        """Shape of the map, and the voxels of every class in it, background first."""
        values, counts = volume["values"], volume["counts"].tolist()
        inside = [sum(counts[raw] for raw in merged if raw < len(counts)) for merged in self.task.classes.values()]
        return tuple(values.shape), [values.numel() - sum(inside), *inside]

    def facts(self, volume: Mapping[str, Any]) -> Facts:
        """Volumes of the structures in the whole map: of the images that are made from it nothing is fixed."""
        voxels, voxel_ml = self.census(volume)[1], math.prod(volume["zooms"]) / 1000
        return {f"{name}/ml": sum(voxels[c] for c in own) * voxel_ml for name, own in self.task.structures.items()}

    def drawn(self, volume: Mapping[str, Any], crop: Sequence[int], g: Generator) -> Mapping[str, Any]:
        """A new image of the size of the crop with its label, which the augmentation mirrors, scales and shifts.

        Args:
            volume: as `training_volume` gives it.
            crop: size of the sample.
            g: source of every draw.
        """
        import torch

        from tcurlora_seg.data.synthesis.anatomy import Anatomy
        from tcurlora_seg.data.synthesis.draw import draw_window

        image, values = draw_window(self.synthesis, Anatomy(**volume), crop, g)
        label = torch.from_numpy(self.task.class_indices(values.numpy()))
        return {"image": image[None], "label": label[None], "spots": []}

    def label_hint(self, strange: Sequence[float]) -> str:
        return "expected a label map with FreeSurfer's values"

    def _advice(self) -> str:
        return f"dataset.files says which files under dataset.root are label maps: {self.source}"
