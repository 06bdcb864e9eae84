"""BraTS2021: gliomas in four modalities; the pre-training data of the base networks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import Task

_NECROTIC, _OEDEMA, _ENHANCING = 1, 2, 4
_ID = re.compile(r"BraTS2021_\d{5}")


def tumour_tasks() -> dict[str, Task]:
    """Tasks on labels of 1 necrotic core, 2 oedema and 4 enhancing tumour; BraTS scores nested regions."""
    return {
        "whole_tumor": Task("whole_tumor", {1: (_NECROTIC, _OEDEMA, _ENHANCING)}, {"whole_tumor": (1,)}),
        "subregions": Task(
            "subregions",
            {1: (_NECROTIC,), 2: (_OEDEMA,), 3: (_ENHANCING,)},
            {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing": (3,)},
        ),
    }


class BraTS2021(SegmentationDataset):
    """Folders BraTS2021_00000 with five files each, at any depth: TCIA has a level of sources above them."""

    name = "brats2021"
    source = "BraTS 2021 task 1 (Synapse syn25829067, Kaggle, or TCIA 10.7937/jc8x-9874; free, an account to make)."
    layout = "BraTS2021_00000/BraTS2021_00000_{flair,t1,t1ce,t2,seg}.nii.gz, at any depth"
    tasks: Mapping[str, Task] = tumour_tasks()
    known_labels = frozenset({0, _NECROTIC, _OEDEMA, _ENHANCING})
    all_modalities = ("flair", "t1", "t1ce", "t2")
    paper_split = (1000 / 1251, 125 / 1251)

    def __init__(
        self,
        *,
        root: str,
        task: str = "whole_tumor",
        manifest: str | None = None,
        modalities: Sequence[str] = ("t1ce",),
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        super().__init__(
            root=root, task=task, manifest=manifest, modalities=modalities, preparation=preparation,
            outside_root=outside_root,
        )  # fmt: skip

    def find_cases(self) -> Found:
        folders: dict[str, list[Path]] = {}
        for place, inner, _ in os.walk(self.root):
            for name in filter(_ID.fullmatch, inner):
                folders.setdefault(name, []).append(Path(place, name))
            inner[:] = [name for name in inner if not _ID.fullmatch(name)]  # what lies in a case is none
        cases, left_out = [], {}
        for id, places in sorted(folders.items()):
            if len(places) > 1:
                names = " and ".join(sorted(place.relative_to(self.root).as_posix() for place in places))
                left_out[id] = f"it is there {len(places)} times, as {names}; keep one"
                continue
            found = {what: self._file(places[0], what) for what in (*self.modalities, "seg")}
            missing = [what for what, path in found.items() if path is None]
            if missing:
                left_out[id] = f"it has no {id}_{missing[0]}.nii.gz"
                continue
            images = {what: path for what in self.all_modalities if (path := self._file(places[0], what))}
            cases.append(Case(id, id, images, found["seg"]))
        return Found(tuple(cases), left_out)

    def label_hint(self, strange: Sequence[float]) -> str:
        later = " (3 for the enhancing tumour is of later years)" if 3 in strange else ""
        return f"it has 0, 1 necrotic, 2 oedema, 4 enhancing{later}"

    def _file(self, folder: Path, what: str) -> str | None:
        """A file, or what lies in a folder that some unzip programs named like the file."""
        for path in (folder / f"{folder.name}_{what}.nii.gz", folder / f"{folder.name}_{what}.nii"):
            files = sorted(path.glob("[!.]*.nii*")) if path.is_dir() else [path]  # not macOS's notes on another file
            if files and files[0].is_file():
                return files[0].relative_to(self.root).as_posix()
        return None
