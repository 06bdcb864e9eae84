"""Score a finished run on held-out volumes; configs/evaluate.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.config.checks import check_run
from tcurlora_seg.config.entry import program


@program("evaluate", check=check_run)
def main(config: DictConfig) -> None:
    from tcurlora_seg.evaluation.evaluate import evaluate_run

    evaluate_run(**{str(key): value for key, value in config.items()})


if __name__ == "__main__":
    main()
