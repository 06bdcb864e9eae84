"""UPENN-GBM: glioblastomas of 630 people in four modalities, 147 of them with labels that experts corrected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.brats2021 import tumour_tasks
from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.manifest import Case, Manifest
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError

_ID = re.compile(r"(UPENN-GBM-\d{5})_(\d\d)")
_BASELINE = "11"
_LABELS = {"expert": "images_segm/{}_segm", "automated": "automated_segm/{}_automated_approx_segm"}


class UPennGBM(SegmentationDataset):
    """TCIA's NIfTI-files: a folder a scan for the images, labels flat in two folders beside them."""

    name = "upenn_gbm"
    source = "UPENN-GBM, NIfTI files, from TCIA (10.7937/TCIA.709X-DN49; CC BY 4.0)."
    layout = "NIfTI-files/images_structural/<ID>/<ID>_{T1,T1GD,T2,FLAIR}.nii.gz with images_segm/<ID>_segm.nii.gz"
    tasks: Mapping[str, Task] = tumour_tasks()
    known_labels = frozenset({0, 1, 2, 4})
    all_modalities = ("t1", "t1gd", "t2", "flair")
    paper_split = (0.1, 0)
    shares_patients_with = "brats2021"

    def __init__(
        self,
        *,
        root: str,
        task: str = "whole_tumor",
        manifest: str | None = None,
        modalities: Sequence[str] = ("t1gd",),
        labels: Literal["expert", "automated", "expert_then_automated"] = "expert",
        crosswalk: str | None = None,
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        super().__init__(
            root=root, task=task, manifest=manifest, modalities=modalities, preparation=preparation,
            outside_root=outside_root,
        )  # fmt: skip
        self.labels, self.crosswalk = labels, crosswalk

    def find_cases(self) -> Found:
        tops = (self.root, *(self.root / name for name in ("NIfTI-files", "UPENN-GBM", "UPENN-GBM/NIfTI-files")))
        top = next((top for top in tops if (top / "images_structural").is_dir()), None)
        if top is None:
            return Found()
        cases, left_out, skipped = [], {}, {}
        for folder in sorted((top / "images_structural").iterdir()):
            name, match = folder.relative_to(self.root).as_posix(), _ID.fullmatch(folder.name)
            if match is None or not folder.is_dir():
                skipped[name] = "not named like a scan, UPENN-GBM-00001_11"
                continue
            if match[2] != _BASELINE:
                skipped[name] = "a follow-up scan, which has no label"
                continue
            skipped |= {f"{name}/{f.name}": "a folder within a scan" for f in sorted(folder.iterdir()) if f.is_dir()}
            files = {modality: _file(folder / f"{folder.name}_{modality.upper()}") for modality in self.all_modalities}
            label = next((p for kind in self._kinds if (p := _file(top / _LABELS[kind].format(folder.name)))), None)
            missing = [modality for modality in self.modalities if files[modality] is None]
            if missing:
                left_out[folder.name] = f"there is no {name}/{folder.name}_{missing[0].upper()}.nii.gz"
            elif label is None:
                place = (top / _LABELS[self._kinds[0]].format(folder.name)).relative_to(self.root).as_posix()
                left_out[folder.name] = f"{name} has no label {place}.nii.gz (dataset.labels={self.labels})"
            else:
                images = {modality: self._relative(path) for modality, path in files.items() if path is not None}
                cases.append(Case(folder.name, match[1], images, self._relative(label)))
        for kind in self._kinds:
            for path in sorted((top / _LABELS[kind].format("x")).parent.glob("*.nii*")):
                id = _ID.match(path.name)
                if id and id[2] == _BASELINE and not (top / "images_structural" / id[0]).is_dir():
                    left_out[id[0]] = f"{self._relative(path)} is a label without images"
        return Found(tuple(cases), left_out, skipped)

    def adopt(self, manifest: Manifest) -> None:
        """Make this manifest the cohort; its labels must be of the kind asked for.

        Raises:
            UserError: they are not, or there is no case.
        """
        kinds = [_LABELS[kind].partition("/")[0] for kind in self._kinds]
        for case in manifest.cases:
            for path in case.label_paths:
                if not any(kind in Path(path).parts for kind in kinds):
                    raise UserError(
                        f"dataset.labels={self.labels}, but the manifest lists {path}; "
                        "write it again with scripts/prepare_data.py and these labels"
                    )
        super().adopt(manifest)

    def label_hint(self, strange: Sequence[float]) -> str:
        return "it has 0, 1 necrotic core, 2 oedema, 4 enhancing"

    @property
    def _kinds(self) -> list[str]:
        return self.labels.split("_then_")

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _file(stem: Path) -> Path | None:
    """`stem` with .nii.gz or .nii, whichever there is."""
    names = (stem.with_name(stem.name + suffix) for suffix in (".nii.gz", ".nii"))
    return next((path for path in names if path.is_file()), None)
