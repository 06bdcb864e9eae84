"""MONAI bundles: folders that `python -m monai.bundle run` executes without this package.

The pre- and post-processing of `Preparation`, `Predictor` and `Segmenter` is repeated here as MONAI's transforms in
JSON, with copies of `intensity`, `units` and `places`. Tests compare the label maps of both.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcurlora_seg.config.paths import PACKAGE
from tcurlora_seg.data import intensity, units
from tcurlora_seg.errors import UserError
from tcurlora_seg.files import TEMPORARY, write_json, write_text
from tcurlora_seg.inference import places
from tcurlora_seg.inference.run import Run, clearing_for, predictor_for
from tcurlora_seg.inference.segmenter import label_dtype, label_values
from tcurlora_seg.models.backbone import window_of

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def write_bundle(run: Run, folder: Path, state: Mapping[str, Tensor], network: str) -> None:
    """Write a bundle; it appears whole or not at all.

    Args:
        run: the run to export.
        folder: a new folder; its name is the bundle's.
        state: the merged weights.
        network: dotted path of MONAI's class.

    Raises:
        UserError: a network that MONAI lacks; a run with a second look, or with rules for pieces, which MONAI's
            transforms cannot apply by structure; label values above 2^24, which its writer, in float32, would round.
    """
    kind = network.rpartition(".")[2]
    if not network.startswith("monai."):
        raise UserError(f"format=bundle: MONAI has no {kind}; take format=state_dict")
    largest = max(label_values(run.dataset.task).values())
    if largest > 2**24:
        raise UserError(
            f"format=bundle: MONAI writes label maps through float32, which rounds the value {largest}: take "
            "format=state_dict, or scripts/predict.py"
        )
    whole = {"second_look": run.config.inference.second_look, **clearing_for(run.config)._asdict()}
    for key, rule in whole.items():
        if rule:
            raise UserError(
                f"{run.directory} has inference.{key}={rule}, which a bundle cannot do: take format=state_dict, or "
                "scripts/predict.py"
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder.parent) as scratch:
            new = Path(scratch) / folder.name
            write_json(new / "configs" / "metadata.json", bundle_metadata(run, kind))
            write_json(new / "configs" / "inference.json", inference_config(run, kind))
            write_text(new / "docs" / "README.md", _readme(run, kind, folder.name))
            for module in (intensity, units, places):
                copied = Path(str(module.__file__))
                write_text(new / "scripts" / copied.name, copied.read_text(encoding="utf-8"))
            shutil.copy(_license(), new / "LICENSE")
            (new / "models").mkdir()
            torch.save(dict(state), new / "models" / "model.pt")
            os.replace(new, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}; nothing was changed") from error


def inference_config(run: Run, kind: str) -> dict[str, Any]:
    """Contents of `configs/inference.json`: the steps from a file to its label map."""
    preparation, predictor = run.dataset.preparation, predictor_for(run.network, run.config, run.dataset)
    resampled = preparation.spacing is not None or run.spacing is not None
    values = label_values(run.dataset.task)
    table = [0, *(values[c] for c in sorted(values))]
    invert = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
              "nearest_interp": not resampled, "to_tensor": True}  # fmt: skip
    choose = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    return {
        "imports": ["$import glob", "$import os", "$import runpy", "$import torch"],
        "bundle_root": ".",
        "input": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "files": _files(run),
        "intensity": "$runpy.run_path(@bundle_root + '/scripts/intensity.py')",
        "units": "$runpy.run_path(@bundle_root + '/scripts/units.py')",
        "places": "$runpy.run_path(@bundle_root + '/scripts/places.py')",
        "network_def": {"_target_": kind, **run.arguments},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(run)},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': f} for f in @files]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "window": {"_target_": "SlidingWindowInferer", "roi_size": list(predictor.window),
                   "sw_batch_size": predictor.batch_size, "overlap": predictor.overlap, "mode": "gaussian"},
        "mirrors": _mirrors(predictor.mirror_axes, predictor.mirror_pairs, predictor.classes),
        "shift": predictor.shift,
        "copies": "$lambda x, mirrors=@mirrors, placed=@places['placed'], window=@window::roi_size, shift=@shift: "
                  "[(view, inside, axes, order) for axes, order in mirrors "
                  "for view, inside in placed(x.flip(axes), window, shift)]",
        "inferer": "$lambda inputs, network, window=@window, copies=@copies, *rest, **more: sum("
                   "torch.softmax(window(view, network), 1)[(..., *inside)].flip(axes)[:, order] / len(found) "
                   "for found in [copies(inputs.as_tensor())] for view, inside, axes, order in found)",
        "postprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "EnsureTyped", "keys": "pred"},  # Invertd takes nothing but a MetaTensor
            *((invert, choose) if resampled else (choose, invert)),
            {"_target_": "Lambdad", "keys": "pred", "func": "$@units['to_own_unit']"},
            {"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: torch.tensor({table})[x.long()]"},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "",
             "output_dtype": f"$'{label_dtype(values).__name__}'", "resample": False, "separate_folder": False},
        ]},
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
            "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
            "val_handlers": [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
                              "load_dict": {"model": "@network"}}],
        },
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def _files(run: Run) -> str:
    """Expression for the input files: one a channel, by their names, or else one a case."""
    first, *others = run.dataset.modalities
    whole = "(sorted(glob.glob(@input + '/*.nii*')) if os.path.isdir(@input) else [@input])"
    if not others:
        return f"${whole}"
    names = ", ".join(f"f.replace('_{first}.', '_{other}.')" for other in others)
    return f"$[[f, {names}] for f in sorted(glob.glob(@input + '/*_{first}.nii*'))] or {whole}"


def _preprocessing(run: Run) -> list[dict[str, Any]]:
    """`Preparation` in MONAI's transforms."""
    preparation = run.dataset.preparation
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True, "dtype": "$torch.float32"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Lambdad", "keys": "image", "func": "$@units['to_millimetres']"},
        {"_target_": "Lambdad", "keys": "image",
         "func": f"$lambda x, note=@intensity['note_backgrounds']: note(x, {preparation.background!r})"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    ]
    if preparation.crop_to_brain:
        steps.append({"_target_": "CropForegroundd", "keys": "image", "source_key": "image",
                      "select_fn": "$@intensity['inside']"})  # fmt: skip
    resample: dict[str, Any] = {"_target_": "Spacingd", "keys": "image", "mode": "bilinear"}
    if preparation.spacing is not None:
        steps.append({**resample, "pixdim": list(preparation.spacing)})
    elif run.spacing is not None:  # an axis is resampled that is none of the training images'
        least, most = map(list, run.spacing.limits)
        steps.append({**resample, "pixdim": list(run.spacing.median), "min_pixdim": least, "max_pixdim": most})
    how = f"{preparation.intensity!r}, {preparation.limits!r}"
    scaling = f"$lambda x, scale=@intensity['scale']: scale(x, {how})"
    return [*steps, {"_target_": "Lambdad", "keys": "image", "func": scaling}]


def _mirrors(axes: tuple[int, ...], pairs: tuple[tuple[int, int], ...], classes: int) -> list[list[list[int]]]:
    """Axes of (batch, channel, X, Y, Z) and order of the classes, for each mirrored copy."""
    result = []
    for chosen in chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)):
        order = list(range(classes))
        for a, b in pairs if 0 in chosen else ():
            order[a], order[b] = b, a
        result.append([[axis + 2 for axis in chosen], order])
    return result


def bundle_metadata(run: Run, kind: str) -> dict[str, Any]:
    """Contents of `configs/metadata.json`, with the fields of MONAI's bundle specification."""
    task, modalities = run.dataset.task, run.dataset.modalities
    names = {c: name for name, classes in task.structures.items() if len(classes) == 1 for c in classes}
    tomography = any(name.partition("_")[0] == "ct" for name in modalities)
    image = {"type": "image", "modality": "CT" if tomography else "MR", "spatial_shape": window_of(run.config),
             "dtype": "float32", "is_patch_data": True}  # fmt: skip
    spacing = None if run.spacing is None else run.spacing.as_dict()
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": "exported"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").split("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {name: metadata.version(name) for name in ("nibabel", "einops", "pytorch-ignite")},
        "name": f"{kind} {run.dataset.name} {task.name}",
        "task": f"Segmentation of {', '.join(task.structures)}",
        "description": f"MONAI {kind}, fine-tuned with {run.config.adapter.name} on {run.dataset.name}, weights merged."
        + (" Trained on a simulated cohort: not for real patients." if run.simulated else ""),
        "authors": "the authors of the run",
        "copyright": "see LICENSE and the terms of the training data",
        "intended_use": "research; not a medical device",
        "data_type": "nifti",
        "training_voxel_size_mm": spacing,
        "network_data_format": {
            "inputs": {"image": {**image, "format": "hounsfield" if tomography else "magnitude",
                                 "num_channels": len(modalities), "value_range": [],
                                 "channel_def": {str(i): name for i, name in enumerate(modalities)}}},
            "outputs": {"pred": {**image, "format": "segmentation", "num_channels": task.out_channels,
                                 "value_range": [0, 1],
                                 "channel_def": {"0": "background", **{str(c): names.get(c, f"class {c}")
                                                                       for c in task.classes}}}},
        },
    }  # fmt: skip


def _readme(run: Run, kind: str, name: str) -> str:
    values, task = label_values(run.dataset.task), run.dataset.task
    meanings = "\n".join(
        f"- {structure}: {', '.join(str(values[c]) for c in classes)}" for structure, classes in task.structures.items()
    )
    size = "any voxel size" if run.spacing is None else f"resampled to voxels of {list(run.spacing.median)} mm and back"
    images = ", ".join(run.dataset.modalities)
    if len(run.dataset.modalities) > 1:
        images += " (a file each, <case>_<name>.nii.gz; or in this order on the fourth axis of one file)"
    return f"""# {name}

MONAI {kind} for {task.name}, fine-tuned with {run.config.adapter.name} on {run.dataset.name}; the adapters are merged.
Input: {images}, NIfTI, {size}, prepared as in training (skull-stripped where the training images were).
The label maps keep name, grid and affine of the images. Their values:

{meanings}

    python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
        --bundle_root . --input IMAGE_OR_FOLDER --output_dir FOLDER

It needs MONAI with nibabel, einops, fire and pytorch-ignite. Research use only.
"""


def _license() -> Path:
    """Licence file of this package, in the checkout or in an installed wheel."""
    checkout = PACKAGE.parent / "LICENSE"
    if checkout.is_file():
        return checkout
    files = metadata.files("tcurlora-seg") or []
    return Path(str(next(file for file in files if file.name == "LICENSE").locate()))
