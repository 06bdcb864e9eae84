"""Cache of prepared training volumes: in memory, on disk, or none."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.fingerprint import fingerprint
from tcurlora_seg.data.typical import ranges
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path
from tcurlora_seg.memory import available_memory

_ENOUGH = 50  # cases: more tell little more, and take minutes
_VERSION = 3  # of what preparation makes of the same files with the same settings
Mode = Literal["auto", "memory", "disk", "none"]
Place = Literal["memory", "disk", "none"]


@dataclass(frozen=True)
class Survey:
    """Facts about the training cases before the first step.

    Attributes:
        shapes: of the prepared volumes, voxels.
        voxels: of every class in each, background first.
    """

    shapes: Sequence[Sequence[int]]
    voxels: Sequence[Sequence[int]]


class TrainingVolumes:
    """Prepared volumes by position, as `SegmentationDataset.training_volume` gives them.

    With "memory" and "disk" all are prepared at construction, so that every label is checked before training. On disk
    they are mapped into memory: a crop reads no more than its own pages.
    """

    def __init__(self, dataset: SegmentationDataset, ids: Sequence[str], place: Place, folder: str | Path) -> None:
        self.dataset, self.ids, self._folder = dataset, list(ids), Path(folder)
        self._volumes: list[dict[str, Any]] = []
        if place != "none":
            with ThreadPoolExecutor(2) as pool:
                prepare = dataset.training_volume if place == "memory" else self._stored
                self._volumes = list(pool.map(prepare, self.ids))
            if not any(any(dataset.census(volume)[1][1:]) for volume in self._volumes):
                raise UserError(
                    f"no training case has a voxel of dataset.task={dataset.task.name} after preparation: "
                    "scripts/prepare_data.py says why; dataset.preparation.spacing may be too coarse"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self._volumes[position] if self._volumes else self.dataset.training_volume(self.ids[position])

    def survey(self) -> Survey:
        """Sizes of the volumes and of the classes in them; of the first 16, where none are kept."""
        volumes = self._volumes or [self[position] for position in range(min(len(self), 16))]
        shapes, counts = zip(*map(self.dataset.census, volumes), strict=True)
        return Survey(shapes, counts)

    def typical(self) -> dict[str, list[float]]:
        """Ranges of measures of the training images and their structures, see `typical`, over up to `_ENOUGH` cases."""
        return ranges(self.dataset.facts(self[position]) for position in range(min(len(self), _ENOUGH)))

    def _stored(self, id: str) -> dict[str, Any]:
        path = stored_path(self.dataset, id, self._folder)
        if not path.is_file():
            volume = self.dataset.training_volume(id)
            try:
                with atomic_path(path) as temporary:
                    torch.save(volume, temporary)
            except UserError as error:
                size = _bytes(sum(value.nbytes for value in volume.values() if isinstance(value, torch.Tensor)))
                raise UserError(
                    f"{error}; a case takes {size}: set data.cache_dir to a larger disk, or data.cache=none"
                ) from error
        return torch.load(path, mmap=True, weights_only=True)


def stored_path(dataset: SegmentationDataset, id: str, folder: str | Path) -> Path:
    """File of a prepared case; its name changes with the case's files and with whatever they are read by."""
    root = dataset.root.absolute()
    files = fingerprint(dataset.manifest().case(id), root)
    parts = (_VERSION, str(root), files, dataset.settings())
    return Path(folder) / f"{id}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.pt"


def choose_place(
    dataset: SegmentationDataset, ids: Sequence[str], mode: Mode, folder: str | Path, *, copies: int = 1
) -> tuple[Place, str]:
    """Choice of the place of the prepared cases, and a line that tells how much it takes.

    "auto" is "memory" where they fit into 80 % of what is free, otherwise "disk". The size is estimated from the
    headers, before cropping to the brain: it is the most that can be needed.

    Args:
        dataset: of the cases.
        ids: of the cases.
        mode: as in `data.cache`.
        folder: for those on disk.
        copies: processes of this machine that train, each of which keeps its own in memory.

    Raises:
        UserError: they do not fit where they are to be kept.
    """
    if mode == "none":
        return mode, f"{len(ids)} volumes are prepared anew each time: data.cache=none"
    sizes = {id: _prepared_bytes(dataset, *header) for id, header in dataset.check_headers(ids).items()}
    volumes, needed, free = f"{len(ids)} prepared volumes", sum(sizes.values()) * copies, available_memory()
    fits = free is None or needed <= 0.8 * free
    memory = f"up to {_bytes(needed)} of memory" + ("" if free is None else f" ({_bytes(free)} are free)")
    if mode == "memory" and not fits:
        raise UserError(f"keeping {volumes} takes {memory}: use data.cache=auto, disk or none")
    if mode == "memory" or (mode == "auto" and fits):
        return "memory", f"keeping {volumes}: {memory}"
    missing = sum(size for id, size in sizes.items() if not stored_path(dataset, id, folder).is_file())
    place = Path(folder).absolute()
    free_disk = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
    why = f": in memory they would take {memory}" if mode == "auto" else ""
    if missing > free_disk:
        raise UserError(
            f"keeping {volumes} in {folder} takes up to {_bytes(missing)} and the disk has {_bytes(free_disk)} "
            f"left{why}; set data.cache_dir to a larger disk, or data.cache=none"
        )
    return "disk", f"keeping {volumes} in {folder}, up to {_bytes(sum(sizes.values()))} of disk{why}"


def _prepared_bytes(dataset: SegmentationDataset, shape: Sequence[int], zooms: Sequence[float]) -> int:
    """float32 for every modality and a byte for the label."""
    spacing = dataset.preparation.spacing or zooms
    voxels = math.prod(n * z / s for n, z, s in zip(shape, zooms, spacing, strict=True))
    return int(voxels * (4 * len(dataset.modalities) + 1))


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
