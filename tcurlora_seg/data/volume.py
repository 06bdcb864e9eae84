"""Reading one volume from disk: NIfTI, and Analyze 7.5 whose voxels may be gzipped."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder

from tcurlora_seg.errors import UserError

_NIBABEL_ERRORS = (
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.spatialimages.ImageDataError,
    nib.wrapstruct.WrapStructError,
)


def read_volume(path: str | Path, analyze_axes: str = "LAS") -> tuple[np.ndarray, np.ndarray]:
    """The voxels as stored, without trailing axes of one, and the affine to RAS millimetres.

    Analyze has no orientation in its header: its axes are taken to run towards `analyze_axes`, and the centre of the
    volume is the origin. nibabel opens .hdr + .img.gz once both are named; by the name of one it does not.

    Raises:
        UserError: the file is missing, truncated or no image.
    """
    with _readable(path):
        image = _open(Path(path))
        array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise UserError(f"{path} has the shape {array.shape}; expected a volume with three axes")
    if isinstance(image, nib.Nifti1Pair):
        return array, image.affine
    return array, centred_affine(array.shape, image.header.get_zooms()[:3], analyze_axes)


def open_volume(path: str | Path) -> Any:
    """The nibabel image with its voxels read, so that a damaged file is found here.

    Raises:
        UserError: as `read_volume`.
    """
    with _readable(path):
        image = _open(Path(path))
        return type(image)(np.asanyarray(image.dataobj), image.affine, image.header)


def read_header(path: str | Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(shape, voxel size in mm) without reading the voxels.

    Raises:
        UserError: as `read_volume`.
    """
    with _readable(path):
        header = _open(Path(path)).header
    return tuple(map(int, header.get_data_shape()[:3])), tuple(map(float, header.get_zooms()[:3]))


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Turn whatever a damaged file raises into one line that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except (OSError, EOFError, ValueError, zlib.error, *_NIBABEL_ERRORS) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({reason}); copy or download it again") from error


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    if path.suffix != ".hdr":
        return nib.load(path)
    voxels = next((v for v in (path.with_suffix(".img"), path.with_suffix(".img.gz")) if v.is_file()), None)
    if voxels is None:
        raise FileNotFoundError("its .img or .img.gz is missing")
    parts = {"header": FileHolder(str(path)), "image": FileHolder(str(voxels))}
    kind = nib.Nifti1Pair if path.read_bytes()[344:347] == b"ni1" else nib.AnalyzeImage
    return kind.from_file_map(parts)


def centred_affine(shape: Sequence[int], zooms: Sequence[float], axes: str) -> np.ndarray:
    """The affine of a volume whose axes run towards `axes` (such as "LAS") and whose centre is the origin."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(nib.orientations.axcodes2ornt(axes)):
        affine[int(world), axis] = sign * abs(zooms[axis])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
