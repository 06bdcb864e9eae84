"""Checks of the values of a configuration, before torch is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from tcurlora_seg.adapters.stacks import check_rank
from tcurlora_seg.config.paths import PACKAGED, packaged
from tcurlora_seg.config.resume import resumed
from tcurlora_seg.config.schema import check_value, constructor
from tcurlora_seg.config.target import backbone_of_target
from tcurlora_seg.errors import UserError

_OF_TRAINING = {  # key -> its smallest value, and what is needed
    "trainer.max_steps": (1, "a whole number of at least 1 is needed, or null for a plan from the data"),
    "overfit": (0, "a number of training cases is needed, 0 for a real run"),
    "data.batch_size": (1, "at least 1 is needed, or null for what fits in memory"),
    "data.steps_per_epoch": (1, "at least 1 is needed"),
    "data.num_workers": (0, "a number of processes is needed, or null"),
    "training.probe": (0, "a number of windows is needed, 0 for none"),
    "training.save_every": (1, "at least 1 epoch is needed"),
    "training.patience": (1, "a number of validations is needed, or null"),
    "training.warmup_steps": (0, "a number of steps is needed, 0 for none"),
    "training.average_last": (0, "a number of epochs is needed, 0 for none"),
}
_OF_PREPARING = {
    "simulate": (1, "a number of subjects is needed, or null"),
    "workers": (1, "a number of threads is needed, or null"),
    "split.fold": (0, "the number of a fold is needed, or null"),
}


def check_windows(*, overlap: float, batch_size: int, shift: int, precision: str) -> None:
    """Check the settings of a `Predictor`.

    Raises:
        UserError: an unknown precision, or an overlap, batch size or shift that cannot be.
    """
    if precision not in ("auto", "32-true", "bf16-mixed"):
        raise UserError(f"inference.precision={precision}: choose auto, 32-true or bf16-mixed")
    if not 0 <= overlap < 1:
        raise UserError(f"inference.overlap={overlap}: 0 to below 1 is needed")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"inference.batch_size={batch_size}: at least 1 window is needed")
    if not isinstance(shift, int) or shift < 0:
        raise UserError(f"inference.shift={shift}: 0 or more voxels are needed")


def check_second_look(second_look: bool, intensity: str) -> None:
    """Check the setting of a second look.

    Raises:
        UserError: it is no switch, or the intensities are no z-score, which it takes again without the skull.
    """
    if not isinstance(second_look, bool):
        raise UserError(f"inference.second_look={second_look}: true or false is needed")
    if second_look and intensity != "zscore":
        raise UserError(
            f"inference.second_look=true needs dataset.preparation.intensity=zscore, which here is {intensity}"
        )


def check_preparing(config: DictConfig) -> None:
    """Check a configuration of `scripts/prepare_data.py`.

    Raises:
        UserError: what must be a whole number is none, or is too small.
    """
    _check_whole_numbers(config, _OF_PREPARING)


def _check_whole_numbers(config: DictConfig, known: Mapping[str, tuple[int, str]]) -> None:
    for key, (least, needed) in known.items():
        value = OmegaConf.select(config, key)
        if value is None and "or null" in needed:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key}={value!r}: {needed}")


def check_training(config: DictConfig) -> None:
    """Check a configuration of `scripts/train.py`.

    Raises:
        UserError: a missing file, a wrong or unsuitable value, a size or rank that the network cannot have.
    """
    config = resumed(config)
    _check_whole_numbers(config, _OF_TRAINING)
    if config.trainer.precision in ("bf16-true", "16-true"):
        raise UserError(
            f"trainer.precision={config.trainer.precision} would round the frozen base, which a model file does not "
            "hold: choose bf16-mixed, 16-mixed or 32-true"
        )
    if config.data.cache not in ("auto", "memory", "disk", "none"):
        raise UserError(f"data.cache={config.data.cache}: choose auto, memory, disk or none")
    if config.test not in (None, "train", "val", "test"):
        raise UserError(f"test={config.test}: choose train, val or test, or null for none")
    factors = config.training.lr_factors
    numbers = factors.values() if isinstance(factors, DictConfig) else [] if factors is None else [None]
    if not all(isinstance(factor, int | float) and factor >= 0 for factor in numbers):
        raise UserError(f"training.lr_factors={factors}: numbers of at least 0 by glob are needed, as {{vit.**: 0.1}}")
    taken = constructor("tcurlora_seg.training.module.SegmentationModule")
    for key in taken.keys() & config.training.keys():
        value = config.training[key]
        plain = OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
        if (key, plain) != ("class_weights", "auto"):  # which the plan fills in
            check_value(f"training.{key}", plain, taken[key])
    rate = config.optimizer.get("lr", 1.0)
    if not isinstance(rate, int | float) or not rate >= 0:
        raise UserError(f"optimizer.lr={rate}: at least 0 is needed")
    if config.training.decay_power < 0:
        raise UserError(f"training.decay_power={config.training.decay_power}: at least 0 is needed")
    if not 0 <= config.training.weights_fade <= 1:
        raise UserError(f"training.weights_fade={config.training.weights_fade}: a share from 0 to 1 is needed")
    if config.training.loss == "tokens" and config.trainer.devices not in (1, "1", "auto"):
        raise UserError("training.loss=tokens leaves the decoder out, which several devices do not allow: give one")
    if config.training.on_divergence not in ("stop", "skip"):
        raise UserError(f"training.on_divergence={config.training.on_divergence}: choose stop or skip")
    if config.resume is None:
        _check_split(config.split)
    check_windows(**{key: config.inference[key] for key in ("overlap", "batch_size", "shift", "precision")})
    intensity = OmegaConf.select(config, "dataset.preparation.intensity", default="zscore")  # of one's own data set
    check_second_look(config.inference.second_look, intensity)
    if config.sweep is None:
        raise UserError("sweep=null: a name is needed, such as sweep=mine")
    if config.seed is None or not 0 <= config.seed < 2**32:
        raise UserError(f"seed={config.seed}: expected 0 to {2**32 - 1}")
    if isinstance(config.pretrained_missing, str):
        raise UserError(f"pretrained_missing={config.pretrained_missing}: a list of globs is needed, or null")
    _check_trainer(config.trainer)
    backbone = backbone_of_target(config.model["_target_"])
    window = config.window or backbone.window(config.model)
    if not isinstance(window, Sequence) or not all(isinstance(side, int) for side in window):
        raise UserError(f"window={window}: three sides in voxels are needed, such as [96,96,96], or null")
    backbone.check(config.model, window)
    check_adapter(config.adapter, config.model)
    if config.pretrained not in (*PACKAGED, "random") and not Path(str(config.pretrained)).is_file():
        raise UserError(f"pretrained={config.pretrained} is not a file: give a path of weights, builtin, or random")
    instantiate(config.dataset).check_root()


_OF_A_SCHEME = {"fold": ("kfold", 0), "folds": ("kfold", 5), "shots": ("shots", 5)}
"""Keys of `split` that belong to one scheme, with their defaults."""


def _check_split(split: DictConfig) -> None:
    """Check that no key of `split` is without effect.

    Raises:
        UserError: one belongs to another scheme.
    """
    for key, (scheme, default) in _OF_A_SCHEME.items():
        if split[key] != default and split.scheme != scheme:
            raise UserError(f"split.{key}={split[key]} has no effect with split.scheme={split.scheme or 'null'}: it "
                            f"belongs to split.scheme={scheme}")  # fmt: skip


_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "64-true")
_SHORT = ("16", "bf16", "32", "64")  # Lightning's own, as 16 for 16-mixed
_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
_OF_THE_RUN = "every run sets it itself"
_WITHOUT_EFFECT = {
    "limit_test_batches": "split.test=N scores N of the test cases",
    "limit_predict_batches": "training predicts nothing",
    "inference_mode": "scoring does not go through Lightning",
    **dict.fromkeys(("max_epochs", "min_epochs", "min_steps"), "trainer.max_steps says how long a run trains"),
    "limit_val_batches": "split.validation=N draws N cases to validate",
    "logger": "the group logger chooses one, as logger=none",
    "overfit_batches": "overfit=N trains and tests on N cases",
    "fast_dev_run": "trainer.max_steps=2 split.test=1 is a quick trial",
    **dict.fromkeys(("default_root_dir", "callbacks", "enable_checkpointing", "enable_model_summary",
                     "enable_progress_bar", "use_distributed_sampler", "num_sanity_val_steps"), _OF_THE_RUN),
}  # fmt: skip
"""Arguments of Lightning's Trainer without effect here, and what to use instead."""


def _check_trainer(trainer: DictConfig) -> None:
    """Check the arguments of Lightning's Trainer.

    Raises:
        UserError: an unknown precision or accelerator, no device, or an argument without effect.
    """
    for key, instead in _WITHOUT_EFFECT.items():
        if key in trainer:
            raise UserError(f"trainer.{key} has no effect here: {instead}")
    if str(trainer.precision) not in (*_PRECISIONS, *_SHORT):
        raise UserError(f"trainer.precision={trainer.precision}: choose {', '.join(_PRECISIONS)}")
    if trainer.accelerator not in _ACCELERATORS:
        raise UserError(f"trainer.accelerator={trainer.accelerator}: choose {', '.join(_ACCELERATORS)}")
    if trainer.devices in (0, "0"):
        raise UserError("trainer.devices=0: a number of at least 1 is needed, or -1 for every GPU")


def check_adapter(adapter: DictConfig, model: DictConfig) -> None:
    """Check ranks and roles against the sizes of the network.

    Raises:
        UserError: an unknown role, or a rank outside 1 to the smaller side of the weights.
    """
    backbone = backbone_of_target(model["_target_"])
    for name, stack in adapter.stacks.items():
        rank = adapter.rank if stack.get("rank") is None else stack.rank
        if rank is not None and not isinstance(rank, int):
            raise UserError(f"adapter.stacks.{name}.rank={rank!r} is not what was expected: a whole number")
        for word in stack.roles:
            backbone.check_role(word)
        for role in backbone.spelt_out(stack.roles):
            shape = backbone.role_shape(role, model)
            if rank is not None and shape is not None and shape[1]:
                check_rank(rank, shape, stack.roles)


def check_run(config: DictConfig) -> None:
    """Check that `checkpoint` is a finished run, a file of exported weights, or a list of them.

    Raises:
        UserError: it does not.
    """
    directories = config.checkpoint if isinstance(config.checkpoint, ListConfig) else [config.checkpoint]
    if not directories:
        raise UserError("checkpoint=[]: give the directory of a run, or several")
    twice = [place for place, count in Counter(directories).items() if count > 1]
    if twice:
        raise UserError(f"checkpoint lists {twice[0]} twice: an ensemble averages different runs")
    for directory in map(packaged, directories):
        if directory.suffix == ".safetensors" and directory.is_file():
            continue
        if not directory.is_dir():
            raise UserError(f"checkpoint={directory} is not a folder: give the directory of a run")
        for name in ("config.yaml", "split.json", "model.safetensors"):
            if not (directory / name).is_file():
                inner = next(directory.glob("**/model.safetensors"), None)
                hint = f"; {inner.parent} is one" if inner else ""
                raise UserError(f"checkpoint={directory} is no finished run: it has no {name}{hint}")


OF_GIVEN = ("checkpoint", "predictions", "split", "root", "surface_tolerance_mm", "pictures", "output", "trust")
"""Keys of `scripts/evaluate.py` that count where label maps are given."""


def check_evaluation(config: DictConfig) -> None:
    """Check a configuration of `scripts/evaluate.py`: the run or runs, and the folders of another program's label maps.

    Raises:
        UserError: no run; `predictions` is no folder; a key without effect on those; no `output` for their scores or an
            ensemble's.
    """
    check_run(config)
    several = isinstance(config.checkpoint, ListConfig)
    for place in config.checkpoint if several else [config.checkpoint]:
        if packaged(place).suffix == ".safetensors":
            raise UserError(f"checkpoint={place} holds exported weights, which know no split: give a run")
    if several and (config.predictions is not None or config.output is None):
        raise UserError("checkpoint=[...] averages runs and needs output=DIR for their scores, without predictions")
    if config.predictions is not None:
        if not Path(config.predictions).is_dir():
            raise UserError(f"predictions={config.predictions} is not a folder: give one that holds <case>.nii.gz")
        if config.output is None:
            raise UserError("predictions=... needs output=DIR: the run's own scores are not overwritten")
        for key in map(str, config):
            if key not in OF_GIVEN and config[key] not in (None, "auto"):
                raise UserError(f"{key}={config[key]} has no effect with predictions=...: they are scored as they are")
