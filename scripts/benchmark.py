"""Measure step time and memory of methods against each other; configs/benchmark.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.benchmark.contest import benchmark, check_benchmark
from tcurlora_seg.config.entry import program


@program("benchmark", check=check_benchmark)
def main(config: DictConfig) -> None:
    benchmark(config)


if __name__ == "__main__":
    main()
