"""Image formats by the files' names; nothing is opened but to tell a DICOM file."""

from __future__ import annotations

from pathlib import Path, PurePath

NIBABEL = (".nii.gz", ".nii", ".hdr", ".mnc", ".mgz", ".mgh")
SIMPLEITK = (".nrrd", ".mha")
ENDINGS = (*NIBABEL, *SIMPLEITK)
SHOWN = f"{', '.join(ENDINGS)}, or a folder of DICOM files"
"""For messages."""


def ending(path: str | PurePath) -> str:
    """Ending of an image's name in small letters, whatever the name has; nothing where it is no image."""
    name = PurePath(path).name.lower()
    return next((known for known in ENDINGS if name.endswith(known)), "")


def stem(path: str | PurePath) -> str:
    """Name of an image without folder and ending."""
    name = PurePath(path).name
    return name[: len(name) - len(ending(path))]


def voxels_of(header: Path) -> Path | None:
    """File of the voxels of a pair, such as Analyze's, by its header's; None where there is none."""
    found = (header.with_suffix(suffix) for suffix in (".img", ".img.gz", ".IMG"))
    return next((path for path in found if path.is_file()), None)


def is_series(path: Path) -> bool:
    """Whether a folder is one image: a DICOM series, a file a slice."""
    if not path.is_dir():
        return False
    first = next((file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")), None)
    if first is None:
        return False
    with first.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"
