from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from tcurlora_seg.config.paths import config_folder
from tcurlora_seg.config.trust import check_trusted
from tcurlora_seg.errors import UserError

ADAPTERS = sorted(path.stem for path in (config_folder() / "adapter").glob("*.yaml"))
DATASETS = sorted(path.stem for path in (config_folder() / "dataset").glob("*.yaml"))


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        return compose("train", overrides=list(overrides))


CHOICES = [*(f"adapter={a}" for a in ADAPTERS), *(f"dataset={d}" for d in DATASETS), "data/augmentation=paper"]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_configuration_of_our_own_is_trusted(choice: str) -> None:
    check_trusted(config(choice), "config.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset._target_", "os.system"),
        ("dataset._target_", "builtins.eval"),
        ("dataset._target_", "tcurlora_seg.files.write_text"),
        ("dataset._target_", "tcurlora_seg.data.datasets.base.Path"),
        ("dataset._target_", "tcurlora_seg.data.datasets.lpba40.Path.unlink"),
        ("dataset._target_", "tcurlora_seg.data.datasets.nowhere.LPBA40"),
        ("dataset._target_", "tcurlora_seg.data.datasets.lpba40._all_structures"),
        ("dataset.preparation._target_", "subprocess.run"),
        ("dataset.preparation._target_", "tcurlora_seg.data.datasets.lpba40.LPBA40"),
        ("dataset.preparation", "${evil}"),
        ("dataset._target_", "${evil._target_}"),
        ("dataset.tasks", {"_target_": "os.system", "_args_": ["true"]}),
        ("dataset.modalities", [{"_target_": "os.getcwd"}]),
        ("model._target_", "torch.load"),
        ("adapter.stacks.attention.method", {"_target_": "torch.hub.load"}),
        ("adapter.method._target_", "tcurlora_seg.adapters.tcurlora.torch.load"),
        ("data.augmentation._target_", "shutil.rmtree"),
    ],
)
def test_whatever_else_a_stored_configuration_names_is_refused(key: str, value: object) -> None:
    stored = config()
    OmegaConf.update(stored, "evil", {"_target_": "os.makedirs", "name": "x"}, force_add=True)
    OmegaConf.update(stored, key, value, force_add=True)
    with pytest.raises(UserError, match=r"config\.yaml: .*_target_=.* is no part of tcurlora_seg"):
        check_trusted(stored, "config.yaml")


def test_a_reference_to_another_section_brings_nothing_in() -> None:
    stored = config()
    OmegaConf.update(stored, "inference.x", {"_target_": "os.getcwd"}, force_add=True)
    OmegaConf.update(stored, "dataset.preparation", "${inference.x}")
    with pytest.raises(UserError, match=r"dataset\.preparation\._target_=os\.getcwd is no part"):
        check_trusted(stored, "config.yaml")
    OmegaConf.update(stored, "dataset.preparation", "${nowhere}")
    with pytest.raises(UserError, match=r"config\.yaml refers to something that it does not hold"):
        check_trusted(stored, "config.yaml")


@pytest.mark.parametrize("key", ["trainer._target_", "optimizer._target_", "logger._target_"])
def test_going_on_with_a_run_builds_its_trainer_only_from_the_libraries_or_the_command_line(key: str) -> None:
    given, stored = config(), config("optimizer=adam_paper")
    check_trusted(stored, "config.yaml", given=given)
    OmegaConf.update(stored, key, "mine.Thing")
    check_trusted(stored, "config.yaml")  # evaluation builds none of these
    with pytest.raises(UserError, match=rf"{key}=mine\.Thing is no part .* give it on the command line again"):
        check_trusted(stored, "config.yaml", given=given)
    OmegaConf.update(given, key, "mine.Thing")
    check_trusted(stored, "config.yaml", given=given)
