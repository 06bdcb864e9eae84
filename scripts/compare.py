"""Compare finished runs: one table, paired tests, one HTML page; configs/compare.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.config.entry import program


@program("compare")
def main(config: DictConfig) -> None:
    from tcurlora_seg.compare import compare

    compare(**{str(key): value for key, value in config.items()})


if __name__ == "__main__":
    main()
