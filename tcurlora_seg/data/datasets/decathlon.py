"""The Medical Segmentation Decathlon: ten tasks of public, labelled volumes, no agreement to sign."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json

_TASKS = (
    "Task01_BrainTumour", "Task02_Heart", "Task03_Liver", "Task04_Hippocampus", "Task05_Prostate", "Task06_Lung",
    "Task07_Pancreas", "Task08_HepaticVessel", "Task09_Spleen", "Task10_Colon",
)  # fmt: skip
_REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (2, 3)}
"""Of the first task's classes 1 oedema, 2 non-enhancing and 3 enhancing tumour."""


class Decathlon(SegmentationDataset):
    """One task's folder, whose dataset.json says which classes, modalities and cases there are.

    Images of several modalities are one file with the channels last.
    """

    name = "decathlon"
    source = "Medical Segmentation Decathlon (medicaldecathlon.com; CC BY-SA 4.0)."
    paper_split = (0.8, 0)
    extent_mm = None  # it need not be a head

    def __init__(
        self,
        *,
        root: str,
        task: str = "Task04_Hippocampus",
        manifest: str | None = None,
        modalities: Sequence[str] | None = None,
        download: bool = False,
        preparation: Preparation,
    ) -> None:
        """Read dataset.json, after downloading it and its images if asked to.

        Args:
            root: the folder that holds the task's folder, or that folder itself.
            modalities: a choice of those in dataset.json; None takes all.
            download: fetch a task that is not there, by MONAI's own path.

        Raises:
            UserError: an unknown task or modality; no such folder; a dataset.json that cannot be used; CT with a
                scaling that takes 0 for the background.
        """
        if task not in _TASKS:
            raise UserError(f"dataset.task={task} is not a task of {self.name}; expected one of {', '.join(_TASKS)}")
        top = Path(root).expanduser()
        folder = top if top.name == task else top / task
        if download and not (folder / "dataset.json").is_file():
            _download(task, folder.parent)
        if not (folder / "dataset.json").is_file():
            raise UserError(
                f"{self.name}: there is no {folder.absolute() / 'dataset.json'}. dataset.download=true fetches "
                f"{task}; or unpack its archive in dataset.root: {self.source}"
            )
        self._list = _read_list(folder / "dataset.json")
        self.layout = f"{task}/dataset.json, imagesTr and labelsTr"
        self.all_modalities = tuple(self._list["modality"])
        made = Task.of_classes(task, {name: (value,) for value, name in self._list["labels"].items() if value})
        if task == "Task01_BrainTumour":
            made = replace(made, structures={**made.structures, **_REGIONS})
        self.tasks = {task: made}
        self.known_labels = frozenset({0, *self._list["labels"]})
        chosen = self.all_modalities if modalities is None else modalities
        super().__init__(root=str(folder), task=task, manifest=manifest, modalities=chosen, preparation=preparation)
        if "ct" in self.modalities and preparation.intensity == "zscore":
            raise UserError(
                f"{task} is CT, whose values below 0 are no background: give dataset.preparation.crop_to_brain=false "
                "dataset.preparation.intensity=window dataset.preparation.limits=[low,high] in Hounsfield units"
            )

    @property
    def cohort(self) -> str:
        """Its ten tasks show other people."""
        return f"{self.name}/{self.task.name}"

    def find_cases(self) -> Found:
        cases, left_out = [], {}
        for entry in self._list["training"]:
            image, label = (entry[key].removeprefix("./") for key in ("image", "label"))
            id = re.sub(r"\.nii(\.gz)?$", "", Path(image).name)
            missing = [path for path in (image, label) if not (self.root / path).is_file()]
            if missing:
                left_out[id] = f"dataset.json lists {missing[0]}, which is not there"
            else:
                cases.append(Case(id, id, dict.fromkeys(self.all_modalities, image), label))
        listed = {path for case in cases for path in case.paths}
        skipped = {}
        for place, reason in (("imagesTs", "a test image, which has no label"), ("imagesTr", "not in dataset.json")):
            for path in sorted((self.root / place).glob("*.nii*")):
                name = path.relative_to(self.root).as_posix()
                if name not in listed and not path.name.startswith("._"):
                    skipped[name] = reason
        return Found(tuple(sorted(cases, key=lambda case: case.id)), left_out, skipped)

    def label_hint(self, strange: Sequence[float]) -> str:
        return "its dataset.json has " + ", ".join(f"{value} {name}" for value, name in self._list["labels"].items())

    def _advice(self) -> str:
        return f"dataset.download=true fetches it; or unpack its archive in dataset.root: {self.source}"


def _read_list(path: Path) -> dict[str, Any]:
    """The dataset.json with modalities in the order of the channels and labels by number, both with plain names.

    Raises:
        UserError: it lacks something.
    """
    raw = read_json(path)
    try:
        return {
            "modality": [name for _, name in sorted((int(i), _plain(name)) for i, name in raw["modality"].items())],
            "labels": dict(sorted((int(value), _plain(name)) for value, name in raw["labels"].items())),
            "training": [{"image": str(entry["image"]), "label": str(entry["label"])} for entry in raw["training"]],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not the dataset.json of a Decathlon task ({reason})") from error


def _plain(name: str) -> str:
    """'non-enhancing tumor' as non_enhancing_tumor: what a key, a column and a file name can be."""
    return re.sub(r"\W+", "_", name.strip().lower())


def _download(task: str, folder: Path) -> None:
    """Fetch and unpack a task with MONAI's addresses, checksums and functions; nobody has run it over a network yet.

    MONAI's `download_and_extract` would do both at once, but needs `requests` for nothing but the archive's name.

    Raises:
        UserError: it did not arrive whole.
    """
    from monai.apps import DecathlonDataset, download_url, extractall

    archive = folder / f"{task}.tar"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url(DecathlonDataset.resource[task], archive, DecathlonDataset.md5[task], "md5")
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:  # so that no half of it is taken for the whole
            extractall(archive, unpacked)
            (Path(unpacked) / task).replace(folder / task)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{task} could not be downloaded to {folder}: {str(error).splitlines()[0]}") from error
