"""Folder of a cohort that is written: volumes by the suffix of their name, and a record of every file."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.fileholders import FileHolder

from tcurlora_seg.files import atomic_path


class CohortFolder:
    """Root and the files written under it. Paths are relative to it, with forward slashes.

    Attributes:
        root: the folder.
        written: every file that this object wrote and that is still there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.written: set[str] = set()

    def write(self, path: str, array: np.ndarray, affine: np.ndarray) -> None:
        """Write a volume as .nii, .nii.gz, or as .hdr with its .img.gz, which keeps the voxel sizes alone.

        Args:
            path: of the file.
            array: (X, Y, Z).
            affine: to RAS mm.
        """
        if path.endswith(".hdr"):
            write_analyze(self.root / path, array, voxel_sizes(affine))
            self.written.update(_parts(path))
            return
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        self.write_bytes(path, image.to_bytes())

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file, atomically; compressed where its name ends in .gz."""
        with atomic_path(self.root / path) as temporary:
            temporary.write_bytes(_compressed(data) if path.endswith(".gz") else data)
        self.written.add(path)

    def remove(self, path: str) -> None:
        """Remove a file, and with an .hdr its .img.gz, and the folders that it leaves empty."""
        for part in _parts(path):
            file = self.root / part
            file.unlink(missing_ok=True)
            for above in file.parents:
                if above == self.root or not above.is_dir() or any(above.iterdir()):
                    break
                above.rmdir()


def write_analyze(path: Path, array: np.ndarray, spacing: float | np.ndarray) -> None:
    """Write an Analyze pair with four dimensions, the last of one, as LPBA40's files have.

    Args:
        path: of the .hdr; the .img.gz is named like it.
        array: (X, Y, Z).
        spacing: voxel size, mm.
    """
    image = nib.AnalyzeImage(array[..., None], None)
    image.header.set_zooms((*np.broadcast_to(spacing, 3), 1.0))
    header, voxels = BytesIO(), BytesIO()
    image.to_file_map({"header": FileHolder(fileobj=header), "image": FileHolder(fileobj=voxels)})
    for part, data in zip(_parts(str(path)), (header.getvalue(), _compressed(voxels.getvalue())), strict=True):
        with atomic_path(part) as temporary:
            temporary.write_bytes(data)


def _compressed(data: bytes) -> bytes:
    """Fast, and the same on every day."""
    return gzip.compress(data, compresslevel=1, mtime=0)


def _parts(path: str) -> list[str]:
    return [path, f"{path.removesuffix('.hdr')}.img.gz"] if path.endswith(".hdr") else [path]
