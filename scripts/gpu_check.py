"""Check and measure everything that only a GPU can show; configs/gpu_check.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.benchmark.gpu_check import check_parts, gpu_check
from tcurlora_seg.config.entry import program


@program("gpu_check", check=check_parts)
def main(config: DictConfig) -> None:
    gpu_check(config)


if __name__ == "__main__":
    main()
