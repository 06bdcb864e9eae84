"""A user's own data: two folders, a list in JSON, or a table; the configuration says what the labels mean."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.found import Found
from tcurlora_seg.data.datasets.listing import Entry, join_folders, read_list
from tcurlora_seg.data.datasets.patients import patient_finder, warn_of_shared_names
from tcurlora_seg.data.formats import stem
from tcurlora_seg.data.manifest import Case, Split
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.task import Task, given_classes
from tcurlora_seg.errors import UserError

_log = logging.getLogger(__name__)


class Folder(SegmentationDataset):
    """Images and labels joined by their names, or by a list."""

    name = "folder"
    source = "your own."
    own_split = "datalist"
    extent_mm = None  # it need not be a head

    def __init__(
        self,
        *,
        root: str,
        classes: Mapping[str, int | Sequence[int]],
        task: str = "segmentation",
        manifest: str | None = None,
        modalities: Sequence[str] = ("image",),
        mirror_pairs: Sequence[Sequence[str]] | None = None,
        background: Sequence[int] = (0,),
        images: str = "images",
        labels: str = "labels",
        image_suffixes: Sequence[str] = ("",),
        label_suffix: str = "",
        datalist: str | None = None,
        patient: str | None = None,
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        """A folder with the user's classes; configs/dataset/folder.yaml describes every argument.

        Raises:
            UserError: arguments that contradict each other.
        """
        merged = given_classes(classes, mirror_pairs)
        values = {value for listed in merged.values() for value in listed}
        if values & set(background):
            raise UserError(f"dataset.background={list(background)} shares a value with dataset.classes")
        if datalist is None and len(image_suffixes) != len(modalities):
            names = f"dataset.modalities={list(modalities)}"
            raise UserError(f"dataset.image_suffixes={list(image_suffixes)}: expected one for each of {names}")
        endings = [*image_suffixes, *([label_suffix] if images == labels else [])]
        if datalist is None and len(endings) != len(set(endings)):
            raise UserError(
                f"dataset.image_suffixes={list(image_suffixes)} and dataset.label_suffix={label_suffix!r} do not tell "
                "the files of a folder apart"
            )
        self._patient, self._pattern = patient_finder(patient), patient
        self.tasks = {task: Task.of_classes(task, merged, mirror_pairs, others=background)}
        self.known_labels = frozenset({*values, *background})
        self.all_modalities = tuple(modalities)
        self.layout = datalist or f"{images}/CASE{image_suffixes[0]}.nii.gz and {labels}/CASE{label_suffix}.nii.gz"
        super().__init__(
            root=root, task=task, manifest=manifest, modalities=modalities, preparation=preparation,
            outside_root=outside_root,
        )  # fmt: skip
        self._classes, self._datalist, self._folders = merged, datalist, (images, labels)
        self._suffixes, self._label_suffix = dict(zip(modalities, image_suffixes, strict=False)), label_suffix

    def find_cases(self) -> Found:
        entries, skipped = self._entries()
        cases, left_out = [], {}
        sides: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for entry in entries:
            assert entry.id is not None
            whose = entry.patient or self._patient(entry.id)
            if entry.label is None and entry.side == "test":
                skipped |= dict.fromkeys(entry.images.values(), "a test image without a label")
            elif reason := self._unusable(entry):
                left_out[entry.id] = reason
            elif not whose:
                left_out[entry.id] = f"dataset.patient={self._pattern} does not match it"
            else:
                cases.append(Case(entry.id, whose, entry.images, entry.label))
                sides[entry.side].append(entry.id)
        if left_out and not cases and self._datalist is None:
            _log.warning("note: no image and label have one name: dataset.image_suffixes and dataset.label_suffix say "
                         "how names end")  # fmt: skip
        if self._pattern is None:
            warn_of_shared_names([case.id for case in cases if case.patient == case.id])
        split = Split(*(tuple(ids) for ids in sides.values()))
        lists = {self.own_split: split} if split.val or split.test else {}
        return Found(tuple(sorted(cases, key=lambda case: case.id)), left_out, skipped, lists)

    def _entries(self) -> tuple[Sequence[Entry], dict[str, str]]:
        """The cases as a list or the folders have them, and what is skipped, with the reason."""
        if self._datalist is None:
            return join_folders(self.root, *self._folders, self._suffixes, self._label_suffix)
        place = Path(self._datalist).expanduser()
        under = self.root / place
        listed = read_list(place if place.is_file() and not under.exists() else under, self.modalities)
        return self._named([self._inside(entry) for entry in listed]), {}

    def label_hint(self, strange: Sequence[float]) -> str:
        return f"dataset.classes={self._classes}: name them there, or in dataset.background if they are none"

    def _advice(self) -> str:
        return "dataset.images and dataset.labels, or dataset.datalist, say where your files lie under dataset.root"

    def _unusable(self, entry: Entry) -> str:
        """Why the files of an entry make no case; nothing if they do."""
        place = next(iter(entry.images.values()), entry.label or "its row")
        missing = [modality for modality in self.modalities if not entry.images.get(modality)]
        if missing or not entry.label:
            return f"{place} has no {missing[0] if missing else 'label'}"
        wanted = [*(entry.images[modality] for modality in self.modalities), entry.label]
        gone = [path for path in wanted if not (self.root / path).exists()]
        if gone and (self.root / gone[0]).is_symlink():
            return f"{gone[0]} is a link to what is not there (git annex and datalad get it)"
        return f"{self._datalist} lists {gone[0]}, which is not there" if gone else ""

    def _named(self, entries: Sequence[Entry]) -> list[Entry]:
        """Every entry with an id: its own; or the name of its first file, with the folders where names repeat.

        Raises:
            UserError: two entries with one id.
        """
        firsts = [next(iter(entry.images.values()), entry.label or "") for entry in entries]
        stems = [(PurePath(first).parent / stem(first)).as_posix() for first in firsts]
        if len({PurePath(stem).name for stem in stems}) == len(stems):
            stems = [PurePath(stem).name for stem in stems]
        named = [replace(e, id=e.id or s.strip("/").replace("/", "_")) for e, s in zip(entries, stems, strict=True)]
        twice = [id for id, count in Counter(entry.id for entry in named).items() if count > 1]
        if twice:
            raise UserError(f"{self._datalist}: two entries have the id {twice[0]}; give every entry an id of its own")
        return named

    def _inside(self, entry: Entry) -> Entry:
        """An entry with its paths as they lie under the root; absolute where one may lie elsewhere.

        Raises:
            UserError: one lies elsewhere without leave.
        """

        def relative(path: str) -> str:
            place = self.root / Path(path)
            if place.is_relative_to(self.root):
                return place.relative_to(self.root).as_posix()
            if self.outside_root:
                return place.as_posix()
            where = f"not under dataset.root={self.root}"
            raise UserError(f"{self._datalist} lists {path}, which is {where}: dataset.outside_root=true allows it")

        images = {modality: relative(path) for modality, path in entry.images.items()}
        return replace(entry, images=images, label=relative(entry.label) if entry.label else None)
