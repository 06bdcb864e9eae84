"""Images by SimpleITK that nibabel cannot read: NRRD, MetaImage and DICOM series."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tcurlora_seg.errors import UserError

_HEADER = 10_000  # bytes, in which a header names a file of voxels if they are not in its own
_LOCAL = re.compile(rb"\nelementdatafile\s*=\s*local")  # MetaImage's word for its own file
_POSITION = "0020|0032"  # of a DICOM slice, in mm


class _Voxels:
    """Voxels that are read when asked for; what nibabel takes for an image's data."""

    is_proxy = True

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[], np.ndarray]) -> None:
        self.shape, self.dtype, self.ndim, self._read = shape, dtype, len(shape), read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        voxels = self._read()
        return voxels if dtype is None else voxels.astype(dtype)


def open_foreign(path: Path) -> nib.Nifti1Image:
    """An image as NIfTI, its affine to RAS mm where DICOM and ITK mean LPS; the voxels of a file are not read yet.

    Raises:
        UserError: no SimpleITK; a header whose voxels lie in another file; more than one series in a folder, or slices
            that are not evenly spaced.
    """
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise UserError(f"reading {path} needs SimpleITK: pip install 'tcurlora-seg[formats]'") from error
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.is_dir():
        return _series(path)
    with path.open("rb") as opened:
        beginning = opened.read(_HEADER).lower()
    elsewhere = b"\ndata file:" in beginning or b"\ndatafile:" in beginning
    if elsewhere or (path.suffix.lower() == ".mha" and not _LOCAL.search(beginning)):
        raise UserError(f"{path}: its voxels lie in another file; save it as one file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    channels = reader.GetNumberOfComponents()
    one = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), channels)
    shape = (*reader.GetSize(), *([channels] if channels > 1 else []))

    def read() -> np.ndarray:
        return _turned(sitk.GetArrayFromImage(reader.Execute()), channels)

    dtype = sitk.GetArrayViewFromImage(one).dtype
    return nib.Nifti1Image(_Voxels(shape, dtype, read), _affine(reader), dtype=dtype)


def _series(folder: Path) -> nib.Nifti1Image:
    import SimpleITK as sitk

    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise UserError(f"{folder} holds {len(series)} DICOM series; expected one: give each a folder of its own")
    reader = sitk.ImageSeriesReader()
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    if len(files) > 2 and reader.HasMetaDataKey(0, _POSITION):
        places = np.array([reader.GetMetaData(n, _POSITION).split("\\") for n in range(len(files))], dtype=float)
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        if np.ptp(steps) > 0.01 * np.median(steps):
            raise UserError(
                f"{folder}: its slices are {steps.min():.3g} to {steps.max():.3g} mm apart; is one missing?"
            )
    voxels = _turned(sitk.GetArrayFromImage(image), image.GetNumberOfComponentsPerPixel())
    return nib.Nifti1Image(voxels, _affine(image), dtype=voxels.dtype)


def _turned(voxels: np.ndarray, channels: int) -> np.ndarray:
    """ITK's array (z, y, x) or (z, y, x, channel) as (x, y, z) or (x, y, z, channel)."""
    return np.moveaxis(voxels, -1, 0).T if channels > 1 else voxels.T


def _affine(image: Any) -> np.ndarray:
    """From voxels to RAS mm; an image of two axes has none here, and is refused for them later."""
    n = image.GetDimension()
    affine = np.eye(4)
    if n < 3:
        return affine
    axes: Sequence[float] = image.GetDirection()
    affine[:3, :3] = np.reshape(axes, (n, n))[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
