"""LPBA40: forty healthy heads with 56 structures drawn by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_PAIRS = {  # id of the left structure; the right one is one more
    21: "superior_frontal", 23: "middle_frontal", 25: "inferior_frontal", 27: "precentral", 29: "middle_orbitofrontal",
    31: "lateral_orbitofrontal", 33: "gyrus_rectus", 41: "postcentral", 43: "superior_parietal", 45: "supramarginal",
    47: "angular", 49: "precuneus", 61: "superior_occipital", 63: "middle_occipital", 65: "inferior_occipital",
    67: "cuneus", 81: "superior_temporal", 83: "middle_temporal", 85: "inferior_temporal", 87: "parahippocampal",
    89: "lingual", 91: "fusiform", 101: "insula", 121: "cingulate", 161: "caudate", 163: "putamen", 165: "hippocampus",
}  # fmt: skip
_STRUCTURES = {
    **{left + side: f"{which}_{name}" for left, name in _PAIRS.items() for side, which in enumerate(("left", "right"))},
    181: "cerebellum",
    182: "brainstem",
}
_LEFT, _RIGHT = 165, 166
_LOWER_AND_UPPER = (  # axis, a structure that lies left, behind or below, and one that lies right, in front or above
    (0, _LEFT, _RIGHT),
    (1, 63, 23),  # middle occipital, middle frontal
    (2, 85, 43),  # inferior temporal, superior parietal
)
_AXIS = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}


def hippocampus_tasks(left: int, right: int, *either: int) -> dict[str, Task]:
    """Tasks on label values of the hippocampi: both as one class, or a class for each side.

    Args:
        left: value of the left one.
        right: value of the right one.
        either: values of labels that do not tell the sides apart.
    """
    sides = {"left_hippocampus": (left,), "right_hippocampus": (right,)}
    return {
        "hippocampus": Task.of_classes("hippocampus", {"hippocampus": (left, right, *either)}),
        "hippocampus_lr": Task.of_classes("hippocampus_lr", sides, [tuple(sides)]),
    }


class LPBA40(SegmentationDataset):
    """Delineation space, as the gzipped Analyze files of the archive or as the NIfTI copies that go round."""

    name = "lpba40"
    source = "LPBA40's 'delineation space' archive from LONI (resource.loni.usc.edu, a licence to sign)."
    layout = "LPBA40/delineation_space/S01/S01.delineation.skullstripped.hdr + .img.gz, or .nii.gz copies"
    tasks: Mapping[str, Task] = {
        **hippocampus_tasks(_LEFT, _RIGHT),
        "structures": Task.of_classes(
            "structures",
            {name: (label,) for label, name in sorted(_STRUCTURES.items())},
            [(f"left_{name}", f"right_{name}") for name in _PAIRS.values()],
        ),
    }
    known_labels = frozenset({0, *_STRUCTURES})
    all_modalities = ("t1",)
    paper_split = (5, 0)

    def __init__(
        self,
        *,
        root: str,
        task: str = "hippocampus",
        manifest: str | None = None,
        modalities: Sequence[str] = ("t1",),
        analyze_axes: str = "LAS",
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        super().__init__(
            root=root, task=task, manifest=manifest, modalities=modalities, preparation=preparation,
            outside_root=outside_root,
        )  # fmt: skip
        if sorted(_AXIS.get(code, -1) for code in analyze_axes) != [0, 1, 2]:
            raise UserError(f"dataset.analyze_axes={analyze_axes}: expected one of L R, P A and I S each, such as LAS")
        self.analyze_axes = analyze_axes

    def find_cases(self) -> Found:
        images, other_images = self._files("skullstripped")
        labels, other_labels = self._files("structure.label")
        native = any(".native." in path.name for path in self._candidates("native_space"))
        if native and not images and not labels:
            raise UserError(
                f"{self.root} holds LPBA40 in native space only (256 x 124 x 256, with skull); "
                "what is needed is the 'delineation space' archive, whose labels belong to skull-stripped 1 mm images"
            )
        left_out = {id: f"{images[id]} is an image without a label" for id in images.keys() - labels.keys()}
        left_out |= {id: f"{labels[id]} is a label without an image" for id in labels.keys() - images.keys()}
        both = sorted(images.keys() & labels.keys())
        cases = tuple(Case(id=id, patient=id, images={"t1": images[id]}, label=labels[id]) for id in both)
        return Found(cases, dict(sorted(left_out.items())), {**other_images, **other_labels})

    def label_hint(self, strange: Sequence[float]) -> str:
        if all(0 < value <= 56 for value in strange):
            return (
                "they look renumbered to 1..54 or 1..56, as in some copies, and then nobody can tell which structure "
                "is which: use the archive's own labels (21 to 182, hippocampus 165 and 166)"
            )
        return "it has 21 to 182 (hippocampus 165 and 166)"

    def check_label(self, raw: np.ndarray, affine: np.ndarray, source: str) -> None:
        """Check a label as stored: its values, and where its structures lie, which Analyze files do not say.

        An image and a label that are mirrored together cannot be told from a true pair.

        Args:
            raw: (X, Y, Z) as stored.
            affine: to RAS mm.
            source: the file, for messages.

        Raises:
            UserError: another value, or left on the right, front at the back or top at the bottom.
        """
        from tcurlora_seg.data.grid import AXES, is_reversed

        super().check_label(raw, affine, source)
        wrong = [axis for axis, lower, upper in _LOWER_AND_UPPER if is_reversed(raw, affine, axis, lower, upper)]
        if wrong:
            names = " and ".join(AXES[axis] for axis in wrong)
            turned = "".join(_OPPOSITE[code] if _AXIS[code] in wrong else code for code in self.analyze_axes)
            raise UserError(
                f"{source}: the volume is reversed {names} by where its structures lie; if it is an Analyze file, "
                f"dataset.analyze_axes={turned} would be right, otherwise its header is wrong"
            )

    def _files(self, what: str) -> tuple[dict[str, str], dict[str, str]]:
        """Case id -> path of S01.delineation.<what>.{hdr,nii,nii.gz} at any usual depth, and why others are skipped."""
        pattern = re.compile(rf"(S\d{{2,}})\.delineation\.{re.escape(what)}\.(hdr|nii|nii\.gz)")
        found: dict[str, str] = {}
        skipped: dict[str, str] = {}
        for path in sorted(set(self._candidates())):
            match, name = pattern.fullmatch(path.name), path.relative_to(self.root).as_posix()
            if match and path.is_file() and found.setdefault(match[1], name) != name:
                skipped[name] = f"another copy of {found[match[1]]}, which is used"
        return found, skipped

    def _candidates(self, space: str = "delineation_space") -> list[Path]:
        """Files in the root, in LPBA40/delineation_space/S01 and in the folders between; `label/` of NIfTI copies."""
        tops = [self.root, self.root / space, self.root / "LPBA40", self.root / "LPBA40" / space]
        return [p for top in tops for depth in ("S*.*", "label/S*.*", "S[0-9]*/S*.*") for p in top.glob(depth)]
