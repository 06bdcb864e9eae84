"""Check a data folder and write its manifest, or simulate a cohort; configs/prepare_data.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.config.checks import check_preparing
from tcurlora_seg.config.entry import program


@program("prepare_data", check=check_preparing)
def main(config: DictConfig) -> None:
    from tcurlora_seg.data.prepare import prepare_data

    prepare_data(config)


if __name__ == "__main__":
    main()
