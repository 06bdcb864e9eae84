"""Volumes from disk: the formats of `formats`, in millimetres.

Any bytes may come under these names. The header is checked before a voxel is read, so that its promises cost no
memory, and whatever the parsers raise becomes one line.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.fileholders import FileHolder

from tcurlora_seg.data.foreign import open_foreign
from tcurlora_seg.data.formats import SHOWN, SIMPLEITK, ending, is_series, voxels_of
from tcurlora_seg.data.grid import centred_affine, check_affine
from tcurlora_seg.data.notes import note
from tcurlora_seg.data.units import unit
from tcurlora_seg.errors import UserError

_EXPANSION = 1032
"""Deflate, which packs .gz, MINC, NRRD and MetaImage, writes at least 2 bits for 258 bytes: no packed file holds more
than this times its own size."""
_ROUNDING = 1e-3
"""How far from a whole number a label value may be."""


def read_volume(path: str | Path, analyze_axes: str = "LAS") -> tuple[np.ndarray, np.ndarray]:
    """Voxels as stored, without trailing axes of one, and the affine to RAS millimetres.

    Analyze has no orientation in its header: the centre of the volume is taken for the origin. nibabel opens
    .hdr + .img.gz once both are named; by the name of one it does not.

    Args:
        path: of the file.
        analyze_axes: where the axes of Analyze files run to.

    Raises:
        UserError: the file is missing, truncated or no image; or its header says what no volume can be: see
            `_check_header`.
    """
    series, affine = read_series(path, analyze_axes)
    if series.shape[3] != 1:
        raise UserError(f"{path} has the shape {series.shape}; expected a volume with three axes")
    return series[..., 0], affine


def open_volume(path: str | Path) -> Any:
    """nibabel image with its voxels read, so that a damaged file is found here.

    Raises:
        UserError: as `read_volume`.
    """
    with _readable(path):
        image = _open(Path(path))
        return type(image)(np.asanyarray(image.dataobj), image.affine, image.header)


def read_series(path: str | Path, analyze_axes: str = "LAS") -> tuple[np.ndarray, np.ndarray]:
    """Volumes (X, Y, Z, K) of a file, K = 1 where it holds one, and their affine.

    Args:
        path: of the file.
        analyze_axes: see `read_volume`.

    Raises:
        UserError: as `read_volume`.
    """
    return series_of(open_volume(path), path, analyze_axes)


def series_of(image: Any, source: object, analyze_axes: str = "LAS") -> tuple[np.ndarray, np.ndarray]:
    """Volumes (X, Y, Z, K) of a nibabel image and their affine; `read_series` of an image that is open.

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
    return array, _affine_of(image, source, analyze_axes)


def whole_numbers(labels: np.ndarray, source: object) -> np.ndarray:
    """Labels as whole numbers; a scale factor in a header may leave them up to 0.001 away.

    Raises:
        UserError: a value that is none.
    """
    if labels.dtype.kind in "biu":
        return labels
    rounded = np.rint(labels)
    with np.errstate(invalid="ignore"):  # infinite values are refused below
        apart = np.abs(labels - rounded)
    strange = np.unique(labels[~(apart <= _ROUNDING)])
    if len(strange):
        shown = ", ".join(f"{value:.6g}" for value in strange[:8]) + (" ..." if len(strange) > 8 else "")
        raise UserError(f"{source}: label values {shown} are no whole numbers; was the label interpolated linearly?")
    if apart.max() > 0:
        note("rounded", f"{source}: label values up to {apart.max():.1g} away from whole numbers are rounded")
    return rounded.astype(np.int64)


def _affine_of(image: Any, source: object, analyze_axes: str = "LAS") -> np.ndarray:
    """The affine from an image's voxels to RAS mm, float64: converted where its header has other units.

    Raises:
        UserError: see `check_affine`.
    """
    name, millimetres = _unit(image)
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair):
        affine = centred_affine(image.shape[:3], image.header.get_zooms()[:3], analyze_axes)
    else:
        affine = np.array(image.affine, dtype=np.float64)
        affine[:3] *= millimetres
    check_affine(affine, source, name)
    if isinstance(image, nib.Nifti1Pair) and not (image.header["qform_code"] or image.header["sform_code"]):
        axes = "".join(nib.aff2axcodes(affine))
        note("no_orientation", f"{source}: its header does not say where left and right are (qform and sform code 0); "
             f"{axes} is assumed")  # fmt: skip
    if name != "mm":
        note("units", f"{source}: its header is in {name}, converted to mm")
    return affine


def _unit(image: Any) -> tuple[str, float]:
    """An image's unit of length and how many mm it is; for all that a header cannot say, one."""
    return unit(image.header["xyzt_units"] if isinstance(image, nib.Nifti1Pair) else 0)


def read_header(path: str | Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and voxel size in mm by the axes of the body (right, front, top), without reading the voxels.

    Analyze, which does not say where its axes run, has them in the file's order.

    Raises:
        UserError: as `read_volume`.
    """
    with _readable(path):
        image = _open(Path(path))
        shape = image.shape[:3]
        affine = image.affine  # what the voxels are placed by, whatever pixdim says beside it
        sizes = _unit(image)[1] * np.array(image.header.get_zooms()[:3] if affine is None else voxel_sizes(affine))
        order = (0, 1, 2) if affine is None else np.argsort(nib.io_orientation(affine)[:, 0])
    return tuple(int(shape[axis]) for axis in order), tuple(float(sizes[axis]) for axis in order)


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
    if not path.is_file() and not is_series(path):
        raise FileNotFoundError("it is a folder, not a file" if path.is_dir() else "there is no such file")
    if not ending(path) and not path.is_dir():
        raise UserError(f"{path} is none of the images that are read: {SHOWN}")
    with nib.imageglobals.LoggingOutputSuppressor():  # what it would mend silently is refused below
        if path.is_dir() or ending(path) in SIMPLEITK:
            image: Any = open_foreign(path)
        elif ending(path) == ".hdr":
            _check_extensions(path)
            image = _pair(path)
        else:
            _check_extensions(path)
            image = _misnamed(path) or nib.load(path)
    _check_header(image, path)
    return image


def _misnamed(path: Path) -> Any:
    """A NIfTI file that is compressed though it is named .nii, or not though it is named .nii.gz; None for others."""
    packed = _is_gzip(path)
    if ending(path) not in (".nii", ".nii.gz") or packed == (ending(path) == ".nii.gz"):
        return None
    with gzip.open(path) if packed else path.open("rb") as opened:
        start = opened.read(4)
        opened.seek(0)
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            size = kind.header_class.sizeof_hdr
            if start in (size.to_bytes(4, "little"), size.to_bytes(4, "big")):
                image = kind.from_stream(opened)
                _check_header(image, path)
                state = "compressed" if packed else "not compressed"
                note("misnamed", f"{path} is {state}, whatever its name says: it is read as it is")
                return kind(np.asanyarray(image.dataobj), image.affine, image.header)
    return None


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as opened:
        return opened.read(2) == b"\x1f\x8b"


def _pair(path: Path) -> Any:
    voxels = voxels_of(path)
    if voxels is None:
        raise FileNotFoundError("its .img or .img.gz is missing")
    parts = {"header": FileHolder(str(path)), "image": FileHolder(str(voxels))}
    kind = nib.Nifti1Pair if path.read_bytes()[344:347] == b"ni1" else nib.AnalyzeImage
    return kind.from_file_map(parts)


def _check_extensions(path: Path) -> None:
    """Hold the lengths of a NIfTI header's extensions against the file: nibabel allocates what they promise.

    Raises:
        UserError: an extension longer than the file.
    """
    size = path.stat().st_size
    with path.open("rb") as opened:
        block = opened.read(544)
        for kind in (nib.Nifti1Pair, nib.Nifti2Pair):
            length = kind.header_class.sizeof_hdr
            if not kind.header_class.may_contain_header(block) or not any(block[length : length + 1]):
                continue
            header = kind.header_class(block[:length], check=False)
            end = size if ending(path) == ".hdr" else float(header["vox_offset"])
            place = length + 4
            while place + 16 <= min(end, size):
                opened.seek(place)
                promised = int.from_bytes(opened.read(4), "little" if header.endianness == "<" else "big", signed=True)
                if promised < 8 or place + promised > size:
                    raise UserError(f"{path}: an extension of its header promises {promised:,} bytes of {size:,}")
                place += promised


def _check_header(image: Any, path: Path) -> None:
    """Check what a header says before anything is allocated by it.

    Raises:
        UserError: no image in space; an axis of length 0; voxels that are no real numbers; more of them than the file
            can hold; a voxel size that is not above 0; see also `check_affine`.
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
    if file.is_file():  # a DICOM series has been read by now
        promised, size = math.prod(shape) * dtype.itemsize, file.stat().st_size
        packed = _is_gzip(file) or ending(file) in (".mnc", *SIMPLEITK)
        if promised > size * (_EXPANSION if packed else 1):
            raise UserError(
                f"{path}: its header promises {promised:,} bytes of voxels, more than {file.name} can hold in "
                f"{size:,}; copy or download it again"
            )
    holder = image.file_map["header" if "header" in image.file_map else "image"]
    if isinstance(image, nib.AnalyzeImage) and (holder.filename or holder.fileobj):
        with holder.get_prepare_fileobj("rb") as opened:  # sizes that nibabel has made positive by now
            header = type(image.header)
            sizes = header(opened.read(header.template_dtype.itemsize), check=False)["pixdim"][1:4].tolist()
        if not isinstance(image, nib.Nifti1Pair):  # SPM marks a mirrored axis so; `analyze_axes` says where it runs
            sizes = [abs(size) for size in sizes]
        if not all(0 < size < math.inf for size in sizes):
            shown = " x ".join(f"{size:g}" for size in sizes)
            raise UserError(f"{path}: its header gives voxels of {shown} mm; expected sizes above 0: mend the header")
    _affine_of(image, path)
