"""Fine-tune a pre-trained UNETR and score held-out volumes; configs/train.yaml lists every key."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from tcurlora_seg.config.checks import check_training
from tcurlora_seg.config.entry import program


@program("train", check=check_training)
def main(config: DictConfig) -> Any:
    from tcurlora_seg.training.run import train

    return train(config)


if __name__ == "__main__":
    main()
