"""Data set and cases of a finished run, by the files in its directory. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.trust import check_trusted
from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.fingerprint import changed, files_of
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import read_json

CONTENTS = "data.json"
"""File in a run directory: hashes of the data files."""


def stored_dataset(
    config: DictConfig, source: object, root: str | None = None, trust: Sequence[str] = ()
) -> SegmentationDataset:
    """Data set of a run. Nothing is downloaded: a run is used without its training images.

    Args:
        config: of the run; `dataset.root` and `dataset.download` are changed.
        source: its file, for messages.
        root: data folder, if it has moved since.
        trust: see `check_trusted`.

    Raises:
        UserError: see `check_trusted`.
    """
    check_trusted(OmegaConf.masked_copy(config, ["dataset"]), source, trust=trust)
    if root is not None:
        config.dataset.root = root
    if "download" in config.dataset:
        config.dataset.download = False
    return instantiate(config.dataset)


def changed_files(directory: Path, dataset: SegmentationDataset, ids: Iterable[str] | None = None) -> str:
    """The words for files that hold something else than when a run began; nothing where they are as they were.

    Args:
        directory: of the run; one that has not begun, or is of a version that noted no files, has no changes.
        dataset: where the files are.
        ids: of the cases to look at; None for all of the run's.
    """
    path = directory / CONTENTS
    noted = read_json(path) if path.exists() else {}
    if ids is not None:
        own = {file for id in ids for file in files_of(dataset.manifest().case(id), dataset.root)}
        noted = {file: state for file, state in noted.items() if file in own}
    found = changed(noted, dataset.root)
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{dataset.root / found[0]}{more} changed since {directory} began" if found else ""


def drawn_cases(directory: Path, dataset: SegmentationDataset, split: str) -> list[str]:
    """Case ids of a run's split.

    Raises:
        UserError: no such cases, or one that has left the data set since.
    """
    path = directory / "split.json"
    drawn = read_json(path)
    if not isinstance(drawn, dict) or not all(isinstance(ids, list) for ids in drawn.values()):
        raise UserError(f"{path} is not what a run writes: lists of cases under train, val and test")
    if split not in drawn:
        raise UserError(f"split={split}: choose train, val or test")
    if not drawn[split]:
        raise UserError(f"split={split}: {directory} drew no such cases")
    manifest = dataset.manifest()
    known = {case.id for case in manifest.cases}
    gone = [case for case in drawn[split] if case not in known]
    if gone:
        reason = f" ({manifest.excluded[gone[0]]})" if gone[0] in manifest.excluded else ""
        raise UserError(
            f"split={split}: the case {gone[0]} of {directory} is no longer in {dataset.root}{reason}; "
            "put it back, or the manifest that lists it, or train again"
        )
    return drawn[split]
