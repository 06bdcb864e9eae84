"""The Medical Segmentation Decathlon: ten tasks of public, labelled volumes, no agreement to sign."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.datasets.listing import plain_name
from tcurlora_seg.data.formats import ending, stem
from tcurlora_seg.data.manifest import Case
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import lock, read_json

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
    extent_mm = None  # it need not be a head

    def __init__(
        self,
        *,
        root: str,
        task: str = "Task04_Hippocampus",
        manifest: str | None = None,
        modalities: Sequence[str] | None = None,
        download: bool = False,
        contents: Mapping[str, Mapping[str, str]] | None = None,
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        """A task by its dataset.json, which is downloaded with its images if asked to.

        Args:
            root: the folder that holds the task's folder, or that folder itself.
            task: name of the folder.
            manifest: its file; None for manifest.json in the task's folder, or dataset.json.
            modalities: a choice of those in dataset.json; None takes all.
            download: fetch a task that is not there, by MONAI's own path.
            contents: `modality` and `labels` of its dataset.json; with them a run predicts where there is no such file.
            preparation: of the images.
            outside_root: whether links and absolute paths may lead out of the root.

        Raises:
            UserError: an unknown task or modality; no such folder; a dataset.json that cannot be used; CT with a
                scaling that takes 0 for the background.
        """
        if task not in _TASKS:
            raise UserError(f"dataset.task={task} is not a task of {self.name}; expected one of {', '.join(_TASKS)}")
        top = Path(root).expanduser()
        folder = top if top.name == task else top / task
        path = folder / "dataset.json"
        if contents is None:
            if download and not path.is_file():
                _download(task, folder.parent)
            if not path.is_file():
                raise UserError(f"{self.name}: there is no {path.absolute()}. {self._advice()}")
            contents = read_json(path)
        with _readable(path):
            self.all_modalities = tuple(name for _, name in sorted(_by_number(contents["modality"]).items()))
            self._labels = dict(sorted(_by_number(contents["labels"]).items()))
            self.remembered = {"contents": {key: dict(contents[key]) for key in ("modality", "labels")}}
        self.layout = f"{task}/dataset.json, imagesTr and labelsTr"
        made = Task.of_classes(task, {name: (value,) for value, name in self._labels.items() if value})
        if task == "Task01_BrainTumour":
            made = replace(made, structures={**made.structures, **_REGIONS})
        self.tasks = {task: made}
        self.known_labels = frozenset({0, *self._labels})
        chosen = self.all_modalities if modalities is None else modalities
        super().__init__(
            root=str(folder), task=task, manifest=manifest, modalities=chosen, preparation=preparation,
            outside_root=outside_root,
        )  # fmt: skip
        self._check_tomography()

    @property
    def cohort(self) -> str:
        """Origin of the images by task: the ten tasks show other people."""
        return f"{self.name}/{self.task.name}"

    def find_cases(self) -> Found:
        path = self.root / "dataset.json"
        with _readable(path):
            listed = [[str(entry[key]).removeprefix("./") for key in ("image", "label")]
                      for entry in read_json(path)["training"]]  # fmt: skip
        cases, left_out = [], {}
        for image, label in listed:
            id = stem(image)
            missing = [path for path in (image, label) if not (self.root / path).is_file()]
            if missing:
                left_out[id] = f"dataset.json lists {missing[0]}, which is not there"
            else:
                cases.append(Case(id, id, dict.fromkeys(self.all_modalities, image), label))
        taken = {image for image, _ in listed}
        skipped = {}
        for place, reason in (("imagesTs", "a test image, which has no label"), ("imagesTr", "not in dataset.json")):
            for path in sorted((self.root / place).glob("*")):
                name = path.relative_to(self.root).as_posix()
                if ending(path) and name not in taken and not path.name.startswith("._"):
                    skipped[name] = reason
        return Found(tuple(sorted(cases, key=lambda case: case.id)), left_out, skipped)

    def label_hint(self, strange: Sequence[float]) -> str:
        return "its dataset.json has " + ", ".join(f"{value} {name}" for value, name in self._labels.items())

    def _advice(self) -> str:
        return f"dataset.download=true fetches it; or unpack its archive in dataset.root: {self.source}"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a dataset.json that lacks something raises into one line that names it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not the dataset.json of a Decathlon task ({reason})") from error


def _by_number(names: Mapping[str, str]) -> dict[int, str]:
    return {int(number): plain_name(name) for number, name in names.items()}


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
        with (folder / f".{task}.lock").open("w") as file:  # several devices of one run come here, and need it once
            lock(file)
            if (folder / task / "dataset.json").is_file():
                return
            download_url(DecathlonDataset.resource[task], archive, DecathlonDataset.md5[task], "md5")
            with tempfile.TemporaryDirectory(dir=folder) as unpacked:  # so that no half of it is taken for the whole
                extractall(archive, unpacked)
                (Path(unpacked) / task).replace(folder / task)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{task} could not be downloaded to {folder}: {str(error).splitlines()[0]}") from error
