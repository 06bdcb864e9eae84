"""Reading volumes from disk: NIfTI, MINC, and Analyze 7.5 whose voxels may be gzipped.

Any bytes may come under these names. The header is checked before a voxel is read, so that what it promises costs no
memory, and whatever the parsers raise becomes one line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder

from tcurlora_seg.errors import UserError

_ENDINGS = (".nii", ".nii.gz", ".hdr", ".mnc", ".mgz")
_EXPANSION = 1032
"""Deflate, which packs .gz and MINC, writes at least 2 bits for 258 bytes: no packed file holds more than this times
its own size."""


def read_volume(path: str | Path, analyze_axes: str = "LAS") -> tuple[np.ndarray, np.ndarray]:
    """The voxels as stored, without trailing axes of one, and the affine to RAS millimetres.

    Analyze has no orientation in its header: its axes are taken to run towards `analyze_axes`, and the centre of the
    volume is the origin. nibabel opens .hdr + .img.gz once both are named; by the name of one it does not.

    Raises:
        UserError: the file is missing, truncated or no image; or its header says what no volume can be: see
            `_check_header`.
    """
    series, affine = read_series(path, analyze_axes)
    if series.shape[3] != 1:
        raise UserError(f"{path} has the shape {series.shape}; expected a volume with three axes")
    return series[..., 0], affine


def open_volume(path: str | Path) -> Any:
    """The nibabel image with its voxels read, so that a damaged file is found here.

    Raises:
        UserError: as `read_volume`.
    """
    with _readable(path):
        image = _open(Path(path))
        return type(image)(np.asanyarray(image.dataobj), image.affine, image.header)


def read_series(path: str | Path, analyze_axes: str = "LAS") -> tuple[np.ndarray, np.ndarray]:
    """The volumes (X, Y, Z, K) of a file, K = 1 where it holds one, and their affine; see `read_volume`.

    Raises:
        UserError: as `read_volume`.
    """
    return series_of(open_volume(path), path, analyze_axes)


def series_of(image: Any, source: object, analyze_axes: str = "LAS") -> tuple[np.ndarray, np.ndarray]:
    """The volumes (X, Y, Z, K) of a nibabel image and their affine, as `read_series` gives those of a file.

    Args:
        image: the image.
        source: its file, for messages.
        analyze_axes: see `read_volume`.

    Raises:
        UserError: other axes than three, or four with the channels last; an affine that flattens the volume.
    """
    array = np.asanyarray(image.dataobj)
    while array.ndim > 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4:
        raise UserError(f"{source} has the shape {array.shape}; expected three axes, or four with the channels last")
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair):
        return array, centred_affine(array.shape[:3], image.header.get_zooms()[:3], analyze_axes)
    affine = np.asarray(image.affine, dtype=np.float64)
    _check_affine(affine, source)
    return array, affine


def turn_to(volume: np.ndarray, affine: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels with axes in the order and direction of the affine `other`, and their affine then.

    MINC stores z first and NIfTI x first; no voxel is interpolated.
    """
    orientation = nib.io_orientation
    change = nib.orientations.ornt_transform(orientation(affine), orientation(other))
    turned = nib.orientations.apply_orientation(volume, change)
    return turned, affine @ nib.orientations.inv_ornt_aff(change, volume.shape)


def read_header(path: str | Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(shape, voxel size in mm) without reading the voxels, by the axes of the body: right, front, top.

    Analyze, which does not say where its axes run, has them in the file's order.

    Raises:
        UserError: as `read_volume`.
    """
    with _readable(path):
        image = _open(Path(path))
        shape, zooms = image.header.get_data_shape()[:3], image.header.get_zooms()[:3]
        order = (0, 1, 2) if image.affine is None else np.argsort(nib.io_orientation(image.affine)[:, 0])
    return tuple(int(shape[axis]) for axis in order), tuple(float(zooms[axis]) for axis in order)


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Turn whatever a damaged file raises into one line that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except UserError:
        raise
    except Exception as error:  # parsers of damaged bytes raise anything: struct.error, OverflowError, RuntimeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({reason}); copy or download it again") from error


def _open(path: Path) -> Any:
    """The nibabel image, its header checked, no voxel read."""
    if not path.is_file():
        raise FileNotFoundError("it is a folder, not a file" if path.is_dir() else "there is no such file")
    if not path.name.endswith(_ENDINGS):
        raise UserError(f"{path} is none of the images that are read: {', '.join(_ENDINGS)}")
    with nib.imageglobals.LoggingOutputSuppressor():  # what it would mend silently is refused below
        image = nib.load(path) if path.suffix != ".hdr" else _pair(path)
    _check_header(image, path)
    return image


def _pair(path: Path) -> Any:
    voxels = next((v for v in (path.with_suffix(".img"), path.with_suffix(".img.gz")) if v.is_file()), None)
    if voxels is None:
        raise FileNotFoundError("its .img or .img.gz is missing")
    parts = {"header": FileHolder(str(path)), "image": FileHolder(str(voxels))}
    kind = nib.Nifti1Pair if path.read_bytes()[344:347] == b"ni1" else nib.AnalyzeImage
    return kind.from_file_map(parts)


def _check_header(image: Any, path: Path) -> None:
    """Check what a header says before anything is allocated by it.

    Raises:
        UserError: no image in space; an axis of length 0; voxels that are no real numbers; more of them than the file
            can hold; a voxel size that is not above 0; an affine that is not finite or flattens the volume.
    """
    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise UserError(f"{path} holds no volume but a {type(image).__name__}")
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or min(shape) < 1:
        raise UserError(f"{path} has the shape {shape}; expected three axes, each of at least one voxel")
    if dtype.kind not in "biuf":
        kind = {"c": "complex numbers", "V": "colours"}.get(dtype.kind, str(dtype))
        raise UserError(f"{path} holds {kind}; expected one real number a voxel: convert it first")
    file = Path(image.file_map["image"].filename or path)
    promised, size = math.prod(shape) * dtype.itemsize, file.stat().st_size
    if promised > size * (_EXPANSION if file.suffix in (".gz", ".mnc", ".mgz") else 1):
        raise UserError(
            f"{path}: its header promises {promised:,} bytes of voxels, more than {file.name} can hold in {size:,}; "
            "copy or download it again"
        )
    if isinstance(image, nib.AnalyzeImage):  # what nibabel has made positive by now
        with image.file_map["header" if "header" in image.file_map else "image"].get_prepare_fileobj("rb") as opened:
            sizes = type(image.header).from_fileobj(opened, check=False)["pixdim"][1:4].tolist()
        if not isinstance(image, nib.Nifti1Pair):  # SPM marks a mirrored axis so; `analyze_axes` says where it runs
            sizes = [abs(size) for size in sizes]
        if not all(0 < size < math.inf for size in sizes):
            shown = " x ".join(f"{size:g}" for size in sizes)
            raise UserError(f"{path}: its header gives voxels of {shown} mm; expected sizes above 0: mend the header")
    _check_affine(image.affine, path)


def _check_affine(affine: np.ndarray, source: object) -> None:
    """Check that an affine (4, 4) places a volume in space.

    Raises:
        UserError: it does not.
    """
    axes = affine[:3, :3]
    if not np.isfinite(affine).all():
        raise UserError(f"{source}: its affine holds NaN or infinite values: mend the header")
    if abs(np.linalg.det(axes)) <= 1e-6 * np.prod(np.linalg.norm(axes, axis=0)):
        raise UserError(f"{source}: its affine flattens the volume: mend the header")


def centred_affine(shape: Sequence[int], zooms: Sequence[float], axes: str) -> np.ndarray:
    """The affine of a volume whose axes run towards `axes` (such as "LAS") and whose centre is the origin."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(nib.orientations.axcodes2ornt(axes)):
        affine[int(world), axis] = sign * abs(zooms[axis])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
