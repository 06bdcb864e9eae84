"""A DICOM series to read."""

from __future__ import annotations

import locale
from pathlib import Path

import numpy as np
import pytest


def write_dicom(folder: Path, array: np.ndarray, leave_out: int | None = None, series: str = "1.2.3") -> None:
    """A series of axial slices, 2 x 1 mm in the plane and 3 mm apart, its first corner at LPS (-10, 20, 30)."""
    sitk = pytest.importorskip("SimpleITK")
    folder.mkdir(parents=True, exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for n in range(array.shape[2]):
        if n == leave_out:
            continue
        plane = sitk.GetImageFromArray(array[:, :, n].T)
        plane.SetSpacing([1.0, 2.0])
        tags = {
            "0008|0060": "MR", "0020|000e": series, "0020|000d": "1.2", "0008|0018": f"{series}.{n + 1}",
            "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0032": f"-10\\20\\{30 + 3 * n}", "0020|0013": str(n),
        }  # fmt: skip
        for key, value in tags.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}_{99 - n}.dcm"))
        writer.Execute(plane)
    locale.setlocale(locale.LC_ALL, before)  # the writer sets C's, in which Python reads text as ASCII
