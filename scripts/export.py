"""Write a run's merged network as a plain MONAI state dict; configs/export.yaml lists every key."""

from __future__ import annotations

from omegaconf import DictConfig

from tcurlora_seg.config.checks import check_run
from tcurlora_seg.config.entry import program


@program("export", check=check_run)
def main(config: DictConfig) -> None:
    from tcurlora_seg.inference.export import export_run

    export_run(**{str(key): value for key, value in config.items()})


if __name__ == "__main__":
    main()
