"""Print the trainable parameters of every method; configs/count_parameters.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.config.entry import program


@program("count_parameters")
def main(config: DictConfig) -> None:
    from tcurlora_seg.benchmark.counting import print_counts

    print_counts(config.model, as_json=config.json)


if __name__ == "__main__":
    main()
