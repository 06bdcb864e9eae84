"""Images to segment, from a file, a folder or a manifest, and the names of their label maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from tcurlora_seg.config.checks import check_run
from tcurlora_seg.data.formats import SHOWN, ending, is_series, stem
from tcurlora_seg.data.manifest import check, load_manifest
from tcurlora_seg.errors import UserError


@dataclass(frozen=True)
class Input:
    """One image to segment.

    Attributes:
        name: of the case, for messages.
        files: modality -> path, of those that are there. Modalities with the same path are volumes of one file, in
            this order.
        target: file name of the label map.
        mask: brain mask of images with their skull, or None.
    """

    name: str
    files: Mapping[str, Path]
    target: str
    mask: Path | None = None


def check_prediction(config: DictConfig) -> None:
    """Check `checkpoint` and `input` before anything heavy is imported.

    Raises:
        UserError: no finished run, or no image of a format that is read.
    """
    check_run(config)
    check_input(Path(config.input))


def find_inputs(path: Path, modalities: Sequence[str], root: str | None = None) -> list[Input]:
    """Images under a path, in the order of their names.

    With one modality: an image file, or every image of a folder. With several, and with one where a folder has no
    images of its own: `<case>_<modality>.nii.gz`, in the folder or in a folder a case. Without such names, and where
    a single file is given, each file holds all modalities.

    Args:
        path: an image, a folder, or a manifest.json.
        modalities: of the network.
        root: base of a manifest's paths; None for its folder.

    Raises:
        UserError: nothing there, two files for one image, or two label maps of one name.
    """
    check_input(path)
    if path.is_dir() and not is_series(path):
        found = _folder(path, modalities)
    elif path.suffix == ".json":
        found = _manifest(path, root)
    else:
        found = _file(path, modalities)
    if not found:
        raise UserError(f"input={path} holds no image like {_layout(modalities)}")
    twice = [target for target, n in Counter(item.target for item in found).items() if n > 1]
    if twice:
        names = " and ".join(item.name for item in found if item.target == twice[0])
        raise UserError(f"input={path}: {names} would both be written as {twice[0]}; move one of them away")
    return found


def check_input(path: Path) -> None:
    """Check that a path holds an image, before anything heavy is imported.

    Raises:
        UserError: nothing there, a file of another kind, or a folder without an image.
    """
    if not path.exists():
        raise UserError(f"input={path} does not exist: give an image, a folder of images, or a manifest.json")
    pair = path.name.lower().endswith((".img", ".img.gz"))  # of an Analyze image, which is named by its header
    if path.is_file() and not ending(path) and not pair and path.suffix != ".json":
        raise UserError(f"input={path} is none of the images that are read: {SHOWN}, or a manifest.json")
    if path.is_dir() and not is_series(path):
        folders = [path, *(inner for inner in path.iterdir() if inner.is_dir())]
        if not any(map(_images, folders)):
            raise UserError(f"input={path} holds no image: {SHOWN} are read, in it or in a folder a case")


def _file(path: Path, modalities: Sequence[str]) -> list[Input]:
    bare, pair, _ = path.name.lower().partition(".img")
    if pair:
        path = path.with_name(path.name[: len(bare)] + (".HDR" if ".IMG" in path.name else ".hdr"))
    return [Input(path.name, dict.fromkeys(modalities, path), _target(path))]


def _folder(folder: Path, modalities: Sequence[str]) -> list[Input]:
    images = _images(folder)
    if len(modalities) == 1 and images:
        return [Input(path.name, {modalities[0]: path}, _target(path)) for path in images]
    found = list(_named(images, modalities))
    for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        found += _named(_images(inner), modalities, case=inner.name)
    found = found or _numbered(images, modalities)
    return found or [Input(path.name, dict.fromkeys(modalities, path), _target(path)) for path in images]


def _named(paths: Sequence[Path], modalities: Sequence[str], case: str | None = None) -> Iterator[Input]:
    """Group `<case>_<modality>.nii.gz` by case; in the folder of a case any text may precede the modality."""
    cases: dict[str, dict[str, Path]] = {}
    for path in paths:
        own = stem(path)
        for modality in modalities:
            if own.lower() == modality.lower() or own.lower().endswith(f"_{modality.lower()}"):
                name = case or own[: -len(modality)].rstrip("_") or own
                first = cases.setdefault(name, {}).setdefault(modality, path)
                if first != path:
                    raise UserError(f"{first} and {path} would both be the {modality} image of {name}; move one away")
    for name, files in sorted(cases.items()):
        yield Input(name, files, f"{name}.nii.gz")


def _numbered(paths: Sequence[Path], modalities: Sequence[str]) -> list[Input]:
    """nnU-Net's `<case>_0000.nii.gz`, `<case>_0001.nii.gz`, ...; nothing unless all files make whole cases so."""
    numbers = {f"{number:04}": modality for number, modality in enumerate(modalities)}
    cases: dict[str, dict[str, Path]] = {}
    for path in paths:
        name, _, number = stem(path).rpartition("_")
        cases.setdefault(name, {})[numbers.get(number, "")] = path
    if any(files.keys() != set(modalities) for files in cases.values()) or len(paths) != len(cases) * len(modalities):
        return []
    return [Input(name, files, f"{name}.nii.gz") for name, files in sorted(cases.items())]


def _manifest(path: Path, root: str | None) -> list[Input]:
    manifest, base = load_manifest(path), Path(root).expanduser() if root else path.parent
    check(manifest, path)
    found = [
        Input(
            case.id,
            {modality: base / place for modality, place in case.images.items()},
            f"{case.id}.nii.gz",
            base / case.mask if case.mask else None,
        )
        for case in manifest.cases
    ]
    if not any(place.exists() for item in found for place in item.files.values()):
        raise UserError(f"input={path}: none of its files is under {base}: give root=DIR, the folder that they lie in")
    return found


def _images(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in files if (path.is_file() and ending(path)) or is_series(path)]


def _target(path: Path) -> str:
    """The image's own name, as NIfTI."""
    return f"{stem(path)}{'.nii' if ending(path) == '.nii' else '.nii.gz'}"


def _layout(modalities: Sequence[str]) -> str:
    if len(modalities) == 1:
        return f"<case>.nii.gz (or a folder a case with <case>_{modalities[0]}.nii.gz)"
    names = f"<case>_{modalities[0]}.nii.gz to <case>_{modalities[-1]}.nii.gz"
    return f"{names}, all in it or in a folder a case; or <case>.nii.gz that holds them all"
