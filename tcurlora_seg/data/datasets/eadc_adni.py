"""EADC-ADNI HarP: hippocampi of 135 people, drawn by hand by the harmonised protocol on T1 images of ADNI."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.datasets.lpba40 import hippocampus_tasks
from tcurlora_seg.data.manifest import Case, Manifest, Split
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

_LEFT, _RIGHT, _EITHER = 1, 2, 3
_PATIENT = re.compile(r"\d{3}_S_\d{4}")
_LABEL = re.compile(r"ADNI_(\d{3}_S_\d{4})_\w+_([LR])\.nii(\.gz)?")
_IMAGE = re.compile(r"ADNI_(\d{3}_S_\d{4})_(\w+_ACPC\.mnc|MR_HarP\w+_I\d+\.nii(\.gz)?)")
_VOLUME = re.compile(r".+\.(nii|nii\.gz|mnc)")
_LISTS = ("train", "valid", "test")


class EADCADNI(SegmentationDataset):
    """Two labels a subject, joined by patient with images of the LONI tree or the MINC set; or prepared copies.

    Labels as read are 1 left, 2 right, and 3 where a prepared copy's mask does not tell the sides apart.
    """

    name = "eadc_adni"
    source = "EADC-ADNI HarP labels (hippocampal-protocol.net) and images from ADNI (ida.loni.usc.edu; an agreement)."
    layout = "Labels_100_NIFTI/ADNI_<PTID>_<id>_L.nii with ADNI/<PTID>/.../*.nii or 100/*.mnc; or EADC/sub1"
    tasks: Mapping[str, Task] = hippocampus_tasks(_LEFT, _RIGHT, _EITHER)
    known_labels = frozenset({0, _LEFT, _RIGHT, _EITHER})
    all_modalities = ("t1",)
    paper_split = (5, 0)
    own_split = "published"
    grid_hint = "; if their voxels correspond one by one whatever the headers say, dataset.label_grid=image"

    def __init__(
        self,
        *,
        root: str,
        task: str = "hippocampus",
        manifest: str | None = None,
        modalities: Sequence[str] = ("t1",),
        label_grid: Literal["header", "image"] = "header",
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        super().__init__(
            root=root, task=task, manifest=manifest, modalities=modalities, preparation=preparation,
            outside_root=outside_root,
        )  # fmt: skip
        self.label_grid = label_grid

    def find_cases(self) -> Found:
        harp, prepared = self._harp(), self._prepared()
        if (harp.cases or harp.left_out) and (prepared.cases or prepared.left_out):
            raise UserError(
                f"{self.root} holds both HarP's own files and prepared copies (sub1, sub2, ...), which are the same "
                "people; give each a root of its own"
            )
        return prepared if prepared.cases or prepared.left_out else harp

    def adopt(self, manifest: Manifest) -> None:
        """Make this manifest the cohort; a task that needs the sides needs labels that tell them apart.

        Raises:
            UserError: they do not, or there is no case.
        """
        one = next((case for case in manifest.cases if isinstance(case.label, str)), None)
        if one and self.task.mirror_pairs:
            raise UserError(
                f"dataset.task={self.task.name}: {one.label} does not tell left from right; "
                "take dataset.task=hippocampus, or HarP's own files with one label a side"
            )
        super().adopt(manifest)

    def label_hint(self, strange: Sequence[float]) -> str:
        return "it has 1 left, 2 right, 3 either"

    def read_label(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Label of both sides: 1 left, 2 right, 3 where one file has both sides; and its affine to RAS mm.

        Some files hold 26896.988 and 26897.988 for 0 and 1, so the larger of a file's two values is the hippocampus.

        Raises:
            UserError: an unreadable file, one with more than two values, sides that overlap or lie on other grids.
        """
        import numpy as np

        from tcurlora_seg.data.volume import read_volume

        parts = {"either": case.label} if isinstance(case.label, str) else dict(case.label or {})
        values = {"left": _LEFT, "right": _RIGHT, "either": _EITHER}
        raw, affine, first = None, None, ""
        for part, path in parts.items():
            stored, own = read_volume(self.root / path)
            found = np.unique(stored)
            if len(found) > 2:
                raise UserError(f"{path} holds {len(found)} different values; expected two, as of a mask")
            inside = (stored - found[0]) > 0
            if raw is None or affine is None:
                raw, affine, first = np.zeros(inside.shape, np.uint8), own, path
            elif inside.shape != raw.shape or not np.allclose(own, affine, atol=0.01):
                raise UserError(f"case {case.id}: {first} and {path} lie on different grids (shape or affine differ)")
            elif bool((inside & (raw > 0)).any()):
                shared = int((inside & (raw > 0)).sum())
                raise UserError(f"case {case.id}: {first} and {path} overlap in {shared} voxel(s)")
            raw[inside] = values[part]
        assert raw is not None and affine is not None
        return raw, affine if self.label_grid == "header" else self._image_affine(case)

    def check_label(self, raw: np.ndarray, affine: np.ndarray, source: str) -> None:
        """Check a label as stored: its values, and that left lies to the left.

        Args:
            raw: (X, Y, Z) as stored.
            affine: to RAS mm.
            source: the file, for messages.

        Raises:
            UserError: another value, or sides in each other's place.
        """
        from tcurlora_seg.data.grid import is_reversed

        super().check_label(raw, affine, source)
        if is_reversed(raw, affine, 0, _LEFT, _RIGHT):
            raise UserError(
                f"{source}: the label of the left side lies to the right of the other one; a label and its image that "
                "are mirrored to each other teach nothing, so leave out this case or find out which of them is wrong"
            )

    def _image_affine(self, case: Case) -> np.ndarray:
        """The affine of the image with its axes sorted as in a label: x first, which MINC has last."""
        import nibabel as nib
        import numpy as np

        from tcurlora_seg.data.volume import read_volume

        _, affine = read_volume(self.root / case.images["t1"])
        order = np.argsort(nib.io_orientation(affine)[:, 0])
        return affine[:, [*order, 3]]

    def _harp(self) -> Found:
        """HarP's own files at any depth; whose they are is in their names."""
        labels: dict[str, list[str]] = defaultdict(list)
        images: dict[str, list[str]] = defaultdict(list)
        masks: dict[str, list[str]] = defaultdict(list)
        stripped: dict[str, list[str]] = defaultdict(list)
        skipped: dict[str, str] = {}
        for path in sorted(p for p in self.root.rglob("*") if _VOLUME.fullmatch(p.name)):
            name, patient = path.relative_to(self.root).as_posix(), _PATIENT.search(path.name)
            label, image = _LABEL.fullmatch(path.name), _IMAGE.fullmatch(path.name)
            if path.name.startswith("._"):
                skipped[name] = "macOS's notes on another file"
            elif path.parent.name in ("brain_masks", "skull_stripped") and patient:
                (masks if path.parent.name == "brain_masks" else stripped)[patient[0]].append(name)
            elif "CSF" in path.name and patient:
                skipped[name] = "a label of the fluid around the hippocampus"
            elif label:
                labels[label[1]].append(name)
            elif image:
                images[image[1]].append(name)
            elif patient:
                skipped[name] = "neither an image nor a label of HarP by its name"
        cases, left_out = [], {}
        for id in sorted({*labels, *images}):
            sides = {side: [p for p in labels[id] if _side(p) == side] for side in ("left", "right")}
            shown = stripped[id] or images[id]
            cover = [] if stripped[id] else masks[id]
            reason = (
                _not_one(shown, "image", labels[id])
                or _not_one(sides["left"], "left label", shown)
                or _not_one(sides["right"], "right label", shown)
                or (_not_one(cover, "brain mask", shown) if cover else "")
            )
            if reason:
                left_out[id] = reason
                continue
            skipped |= {p: f"{shown[0]} is used" for p in images[id] if stripped[id]}
            skipped |= {p: f"{shown[0]} has no skull" for p in masks[id] if stripped[id]}
            label_paths = {side: paths[0] for side, paths in sides.items()}
            cases.append(Case(id, id, {"t1": shown[0]}, label_paths, cover[0] if cover else None))
        bare = sum(case.mask is None and not stripped[case.id] for case in cases)
        if bare:
            log.warning(
                "%s: %d of %d images carry their skull; a folder brain_masks/ or skull_stripped/ in the root, one file "
                "a subject with the PTID in its name, takes it off", self.name, bare, len(cases),
            )  # fmt: skip
        return Found(tuple(cases), left_out, skipped)

    def _prepared(self) -> Found:
        """The layout of the method's public code: sub1/sub1_img.nii.gz, sub1_mask.nii.gz and three lists."""
        top = self.root / "EADC" if (self.root / "EADC").is_dir() else self.root
        lists = {name: _lines(top / f"{name}.txt") for name in _LISTS}
        ids = {path.name for path in top.glob("sub*") if re.fullmatch(r"sub\d+", path.name)}
        ids.update(id for listed in lists.values() for id in listed)
        cases, left_out = [], {}
        for id in sorted(ids, key=lambda id: (len(id), id)):
            paths = [top / id / f"{id}_{what}.nii.gz" for what in ("img", "mask")]
            image, label = (path.relative_to(self.root).as_posix() for path in paths)
            missing = [p for p, path in zip((image, label), paths, strict=True) if not path.is_file()]
            if missing:
                left_out[id] = f"there is no {missing[0]}"
            else:
                cases.append(Case(id, id, {"t1": image}, label))
        known = {case.id for case in cases}
        split = Split(*(tuple(id for id in lists[name] if id in known) for name in _LISTS))
        return Found(tuple(cases), left_out, {}, {self.own_split: split} if split.train and split.test else {})


def _side(path: str) -> str:
    return "left" if path.removesuffix(".gz").endswith("_L.nii") else "right"


def _not_one(paths: Sequence[str], what: str, others: Iterable[str]) -> str:
    """Why these are not exactly one file of a subject; nothing if they are."""
    if not paths:
        return f"{next(iter(others), 'its other file')} has no {what}"
    return f"it has more than one {what}: {' and '.join(paths)}" if len(paths) > 1 else ""


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.is_file() else []
