"""What `scripts/prepare_data.py` does: check a data folder and write its manifest, or simulate a cohort into it."""

from __future__ import annotations

import sys
from dataclasses import replace

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import Progress

from tcurlora_seg.data.datasets.base import SegmentationDataset
from tcurlora_seg.data.manifest import Manifest, load_manifest, write_manifest
from tcurlora_seg.data.simulate import simulate


def prepare_data(config: DictConfig) -> Manifest:
    """Simulate `config.simulate` subjects into the data set's root; or, where that is null, check what lies there.

    Raises:
        UserError: a folder that cannot be used; nothing is written then.
    """
    dataset: SegmentationDataset = instantiate(config.dataset)
    if config.simulate is None:
        manifest = check_folder(dataset)
    else:
        with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
            work = bar.add_task(f"simulating {dataset.name}", total=config.simulate)
            manifest = simulate(
                dataset.name,
                dataset.root,
                subjects=config.simulate,
                seed=config.seed,
                spacing=config.spacing,
                progress=lambda done, total: bar.update(work, completed=done),
            )
    kind = "simulated cases" if manifest.simulated else "cases"
    print(f"{dataset.name}: {len(manifest.cases)} {kind} in {dataset.root}; wrote {dataset.root / 'manifest.json'}")
    return manifest


def check_folder(dataset: SegmentationDataset) -> Manifest:
    """Look for the cases, compare the shapes of their files and write manifest.json into the root.

    Splits, left-out cases and what an older manifest says of a simulation are kept.

    Raises:
        UserError: no case, files that do not belong together, or a split of the older manifest that no longer fits.
    """
    dataset.check_root()
    path = dataset.root / "manifest.json"
    known = load_manifest(path) if path.is_file() else Manifest(dataset.name, ())
    found = dataset.find_cases().without({**dataset.known_defects, **known.excluded})
    manifest = replace(
        known,
        cases=found.cases,
        splits={**found.splits, **known.splits},
        excluded={**known.excluded, **found.left_out},
    )
    dataset.adopt(manifest)
    dataset.check_headers(case.id for case in manifest.cases)
    write_manifest(dataset.manifest(), path)
    return dataset.manifest()
