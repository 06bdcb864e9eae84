"""nnU-Net's raw folders, the layout of most shared segmentation data; dataset.json describes the content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.datasets.folder import Folder
from tcurlora_seg.data.datasets.listing import Entry, join_folders, plain_name
from tcurlora_seg.data.datasets.patients import patient_finder
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.sides import find_sides
from tcurlora_seg.data.task import Task, check_pairs
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json

_KEPT = ("channel_names", "modality", "labels")


class NNUNet(Folder):
    """imagesTr/CASE_0000 to CASE_0003 with labelsTr/CASE, and a dataset.json of version 2 or 1.

    Regions, which nnU-Net trains with a sigmoid each, are here unions of classes under one softmax: a class for each
    label value, or for those that belong to the same regions.
    """

    name = "nnunet"
    source = "your own, or whoever shares a folder Dataset001_NAME for nnU-Net."

    def __init__(
        self,
        *,
        root: str,
        task: str | None = None,
        manifest: str | None = None,
        modalities: Sequence[str] | None = None,
        mirror_pairs: Sequence[Sequence[str]] | None = None,
        patient: str | None = None,
        contents: Mapping[str, Any] | None = None,
        preparation: Preparation,
        outside_root: bool = False,
    ) -> None:
        """A folder and its dataset.json; configs/dataset/nnunet.yaml describes every argument.

        Raises:
            UserError: no dataset.json, several, or one that cannot be used.
        """
        folder = _folder(Path(root).expanduser(), needed=contents is None)
        path = folder / "dataset.json"
        contents = read_json(path) if contents is None else contents
        try:
            channels = contents.get("channel_names") or contents["modality"]
            names = [plain_name(name) for _, name in sorted(channels.items(), key=lambda item: int(item[0]))]
            regions, ignored = _labels(contents["labels"])
            kept = {key: contents[key] for key in _KEPT if key in contents}
            self.remembered = {"contents": kept, "task": task or folder.name}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{path} is not the dataset.json of an nnU-Net data set ({reason})") from error
        if len(set(names)) < len(names):  # such as zscore, zscore: named by how they are scaled
            names = [f"{name}_{number}" for number, name in enumerate(names)]
        self.all_modalities = tuple(names)
        chosen = task or folder.name
        self.tasks = {chosen: _task(chosen, regions, ignored, mirror_pairs)}
        self.known_labels = frozenset({0, *ignored, *(value for values in regions.values() for value in values)})
        self.layout = "dataset.json, imagesTr/CASE_0000 and labelsTr/CASE"
        self._patient, self._pattern, self._datalist = patient_finder(patient), patient, path.name
        SegmentationDataset.__init__(
            self, root=str(folder), task=chosen, manifest=manifest, modalities=modalities or self.all_modalities,
            preparation=preparation, outside_root=outside_root,
        )  # fmt: skip
        self._check_tomography()

    @property
    def cohort(self) -> str:
        return f"{self.name}/{self.root.name}"

    def _entries(self) -> tuple[Sequence[Entry], dict[str, str]]:
        """The cases as dataset.json lists them, or else as the folders hold them; and what is skipped."""
        path = self.root / "dataset.json"
        listed = read_json(path).get("dataset") if path.is_file() else None
        if not listed:
            suffixes = {modality: f"_{n:04d}" for n, modality in enumerate(self.all_modalities)}
            return join_folders(self.root, "imagesTr", "labelsTr", suffixes, "")
        try:
            entries = []
            for id, case in sorted(listed.items()):
                *images, label = (str(path).removeprefix("./") for path in (*case["images"], case["label"]))
                entries.append(Entry(dict(zip(self.all_modalities, images, strict=True)), label, id))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: its 'dataset' lists a case without its images or label ({error})") from error
        return entries, {}

    def label_hint(self, strange: Sequence[float]) -> str:
        return f"its dataset.json has {', '.join(str(value) for value in sorted(self.known_labels))}"

    def _advice(self) -> str:
        return f"dataset.root is the folder of dataset.json: {self.source}"


def _folder(top: Path, *, needed: bool) -> Path:
    """The folder of dataset.json: `top`, or the only one up to three levels below it; `top` if it is not needed.

    Raises:
        UserError: none, or several to choose from.
    """
    for depth in range(4):
        found = sorted(path.parent for path in top.glob("/".join(["*"] * depth + ["dataset.json"])))
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(top)) for path in found[:5])
            raise UserError(f"dataset.root={top} holds {len(found)} data sets ({names}): give one of these folders")
        if found:
            return found[0]
    if not needed:
        return top
    raise UserError(f"nnunet: no dataset.json lies under dataset.root={top.absolute()}; give the folder that holds it")


def _labels(raw: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Names and their label values, and the values to ignore; of version 1 too, which has {"1": "name"}."""
    if all(str(key).isdigit() for key in raw):
        raw = {name: int(value) for value, name in raw.items()}
    names = list(map(plain_name, raw))
    names = [f"{name}_{n}" if names.count(name) > 1 else name for n, name in enumerate(names)]  # of CSF+ and CSF-
    regions = {
        name: (int(values),) if isinstance(values, int | str) else tuple(map(int, values))
        for name, values in zip(names, raw.values(), strict=True)
    }
    ignored = regions.pop("ignore", ())
    return {name: values for name, values in regions.items() if values != (0,)}, ignored


def _task(
    name: str, regions: Mapping[str, Sequence[int]], ignored: tuple[int, ...], pairs: Sequence[Sequence[str]] | None
) -> Task:
    """A class for all label values that belong to the same regions, and the regions as its structures."""
    members: dict[frozenset[str], list[int]] = {}
    for value in sorted({value for values in regions.values() for value in values}):
        members.setdefault(frozenset(region for region, values in regions.items() if value in values), []).append(value)
    check_pairs(pairs, regions, "dataset.json's labels")
    found, alone = find_sides(regions) if pairs is None else (pairs, [])
    other = {left: right for left, right in found} | {right: left for left, right in found}
    index = {owners: i for i, owners in enumerate(members, start=1)}
    mirrored = {i: index.get(frozenset(other.get(region, region) for region in owners)) for owners, i in index.items()}
    torn = {region for owners, i in index.items() if mirrored[i] is None for region in owners if region in other}
    return Task(
        name,
        {i: tuple(members[owners]) for owners, i in index.items()},
        {region: tuple(i for owners, i in index.items() if region in owners) for region in regions},
        tuple((i, partner) for i, partner in mirrored.items() if partner is not None and i < partner),
        tuple(alone or sorted(torn)),  # a class whose mirrored regions are no class has one side, too
        ignored,
    )
