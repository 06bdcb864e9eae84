"""Score a finished run on held-out volumes; configs/evaluate.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.config.checks import check_evaluation
from tcurlora_seg.config.entry import program


@program("evaluate", check=check_evaluation)
def main(config: DictConfig) -> None:
    given = {str(key): value for key, value in config.items()}
    if given.pop("predictions") is None:
        from tcurlora_seg.evaluation.evaluate import evaluate_run

        evaluate_run(**given)
    else:
        from tcurlora_seg.evaluation.given import score_folder

        taken = ("checkpoint", "split", "root", "surface_tolerance_mm", "pictures", "output", "trust")
        score_folder(predictions=config.predictions, **{key: given[key] for key in taken})


if __name__ == "__main__":
    main()
