"""The data set of a finished run, built from the configuration in its directory. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.trust import check_trusted
from tcurlora_seg.data.datasets.base import SegmentationDataset


def stored_dataset(
    config: DictConfig, source: object, root: str | None = None, trust: Sequence[str] = ()
) -> SegmentationDataset:
    """Build the data set without fetching anything: whoever uses a run did not ask for its training images.

    Args:
        config: of the run; where the data lie is changed in it.
        source: its file, for messages.
        root: data folder, if it is no longer where the run had it.
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
