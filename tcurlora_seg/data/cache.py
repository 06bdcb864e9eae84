"""Prepared training volumes, kept in memory, on disk, or prepared anew each time."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch

from tcurlora_seg.data.augmentation import foreground_spots
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import atomic_path

log = logging.getLogger(__name__)
Mode = Literal["memory", "disk", "none"]


class TrainingVolumes:
    """Prepared volumes by position: image (C, X, Y, Z) float32, label (1, X, Y, Z) uint8 and `foreground_spots`.

    With "memory" and "disk" all are prepared at construction, so that every label is checked before training. On disk
    they are mapped into memory: a crop reads no more than its own pages.
    """

    def __init__(self, dataset: SegmentationDataset, ids: Sequence[str], mode: Mode, folder: str | Path) -> None:
        self._dataset, self._ids, self._mode, self._folder = dataset, list(ids), mode, Path(folder)
        self._volumes: list[dict[str, Any]] = []
        if mode != "none":
            with ThreadPoolExecutor(2) as pool:
                self._volumes = list(pool.map(self._prepare if mode == "memory" else self._stored, self._ids))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self._volumes[position] if self._volumes else self._prepare(self._ids[position])

    def _prepare(self, id: str) -> dict[str, Any]:
        case = self._dataset.prepare(id)
        image, label = (case[key].as_tensor().contiguous() for key in ("image", "label"))
        label = label.to(torch.uint8)
        return {"image": image, "label": label, "spots": foreground_spots(label)}

    def _stored(self, id: str) -> dict[str, Any]:
        path = self._folder / f"{id}-{self._fingerprint(id)}.pt"
        if not path.is_file():
            volume = self._prepare(id)
            with atomic_path(path) as temporary:
                torch.save(volume, temporary)
        return torch.load(path, mmap=True, weights_only=True)

    def _fingerprint(self, id: str) -> str:
        """Changes with the files, the preparation, the task and the modalities."""
        case = self._dataset.manifest().case(id)
        stats = [(p, (self._dataset.root / p).stat()) for p in case.paths]
        files = [(str(self._dataset.root.absolute() / p), s.st_size, s.st_mtime_ns) for p, s in stats]
        parts = (files, self._dataset.preparation, self._dataset.task, self._dataset.modalities)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def check_memory(dataset: SegmentationDataset, ids: Sequence[str]) -> None:
    """Announce what keeping the prepared cases in memory will take, estimated from their headers.

    Raises:
        UserError: more than 80 % of what is free.
    """
    size = 0
    for shape, zooms in dataset.check_headers(ids).values():
        spacing = dataset.preparation.spacing or zooms
        voxels = math.prod(n * z / s for n, z, s in zip(shape, zooms, spacing, strict=True))
        size += int(voxels * (4 * len(dataset.modalities) + 1))
    log.info("keeping %d prepared volumes in memory: at most %.2f GB", len(ids), size / 1e9)
    free = available_memory()
    if free is not None and size > 0.8 * free:
        raise UserError(
            f"keeping {len(ids)} prepared volumes in memory takes up to {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
            "are free: use data.cache=disk, or data.cache=none"
        )


def available_memory() -> int | None:
    """Bytes that can be had without swapping, within the container's limit; None where the system does not tell."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and limit.read_text().strip() != "max":
        found.append(int(limit.read_text()) - int(used.read_text()))
    return min(found, default=None)
