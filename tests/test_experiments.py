"""Every file of configs/experiment composes, fits the programs' schema, and sweeps over keys that there are."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from programs import run_script

from tcurlora_seg.config.paths import config_folder, packaged
from tcurlora_seg.config.schema import validate
from tcurlora_seg.inference.exported import exported_config
from tcurlora_seg.inference.run import clearing_for

EXPERIMENTS = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
SWEEPS = ["table1", "rank_curve", "few_shot", "leave_one_out"]
PAPER = [name for name in EXPERIMENTS if name.startswith("paper_")]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def jobs(config: DictConfig) -> list[list[str]]:
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    found = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(params), None)
    return [job for batch in found for job in batch]


@pytest.mark.parametrize("experiment", [*EXPERIMENTS, *(f"[{p},{s}]" for p in PAPER for s in SWEEPS)])
def test_an_experiment_composes_and_every_job_of_it_fits_the_schema(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = composed(f"experiment={experiment}")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # undone afterwards, with what is set next
    HydraConfig.instance().set_config(whole)
    found = jobs(whole)
    assert len(found) == len({tuple(job) for job in found}) >= 1
    for job in (found[0], found[-1]):
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            plain, changed = (compose("train", overrides=[f"experiment={experiment}", *more])
                              for more in ([j for j in job if j.startswith("adapter=")], job))  # fmt: skip
        validate(changed, plain)
    assert (whole.model.hidden_size == 768) == ("paper" in experiment)


def test_a_method_has_its_own_rates_but_in_the_papers_experiments() -> None:
    config = composed("adapter=lora_pt")
    assert (config.optimizer.lr, config.training.adapter_lr_factor) == (2e-3, 0.1)
    assert composed("adapter=full").optimizer.lr == 1e-3
    assert {composed(f"adapter={name}").training.adapter_lr_factor for name in ("full", "lora", "tcurlora")} == {1.0}
    paper = composed("experiment=paper_lpba40", "adapter=lora_pt")
    assert (paper.optimizer.lr, paper.training.adapter_lr_factor) == (1e-3, 1.0)


@pytest.mark.parametrize("experiment", PAPER)
def test_the_papers_training_is_the_papers(experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    trainer, optimizer = config.trainer, config.optimizer
    assert (trainer.precision, trainer.gradient_clip_val, config.model.dropout_rate) == ("32-true", None, 0.1)
    assert (config.window, config.data.batch_size, config.training.loss) == ([128, 128, 128], 4, "dice")
    assert (optimizer._target_, optimizer.lr, optimizer.amsgrad) == ("torch.optim.Adam", 1e-3, True)
    assert (config.inference.mirror, config.training.decay_power, config.training.average_last) == (False, 0.9, 4)


def test_the_sweeps_are_as_large_as_their_headers_say() -> None:
    sizes = {name: len(jobs(composed(f"experiment={name}"))) for name in SWEEPS}
    assert sizes == {"table1": 9 * 3, "rank_curve": 3 * 6 * 3, "few_shot": 4 * 4 * 3, "leave_one_out": 4 * 5}


def test_an_experiment_that_sweeps_needs_no_other_switch(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("experiment=[paper_lpba40,leave_one_out]", f"dataset.root={tmp_path / 'nowhere'}", "pretrained=random")
    assert run_script("train", *arguments, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert "20 job(s) failed" in error and "does not exist" in error and "Traceback" not in error


def test_the_packaged_base_prepares_images_and_clears_pieces_as_its_experiment() -> None:
    own, experiment = exported_config(packaged("builtin")), composed("experiment=pretrain_heads")
    assert own.dataset.preparation == experiment.dataset.preparation and own.dataset.preparation.background == "auto"
    assert clearing_for(own) == clearing_for(experiment) and own.inference.min_share == 0.1
    assert own.inference.second_look is experiment.inference.second_look is True
