"""Segment images with finished runs; configs/predict.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.config.entry import program
from tcurlora_seg.inference.inputs import check_prediction


@program("predict", check=check_prediction)
def main(config: DictConfig) -> None:
    from tcurlora_seg.inference.predict import predict_files

    predict_files(**{str(key): value for key, value in config.items()})


if __name__ == "__main__":
    main()
