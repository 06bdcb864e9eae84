"""Score a finished run on held-out volumes; configs/evaluate.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.config.checks import OF_GIVEN, check_evaluation
from tcurlora_seg.config.entry import program


@program("evaluate", check=check_evaluation)
def main(config: DictConfig) -> None:
    if config.predictions is None:
        from tcurlora_seg.evaluation.evaluate import evaluate_run

        evaluate_run(**{str(key): value for key, value in config.items() if key != "predictions"})
    else:
        from tcurlora_seg.evaluation.given import score_folder

        score_folder(**{key: config[key] for key in OF_GIVEN})


if __name__ == "__main__":
    main()
