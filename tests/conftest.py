"""The tiny network that most tests run on, and finished runs of it to evaluate, predict with and export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import programs
import pytest
import torch
from torch import Tensor, nn

from tcurlora_seg.data.simulate import simulate

TINY = {
    "in_channels": 1, "out_channels": 2, "img_size": [32, 32, 32], "feature_size": 4, "hidden_size": 24,
    "mlp_dim": 48, "num_heads": 2,
}  # fmt: skip


torch.set_num_threads(1)  # so small a network gains nothing from two, and loses much beside another busy process


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """A function that builds the tiny UNETR: `build(seed=0, out_channels=3)`."""
    from tcurlora_seg.models.unetr import build_unetr

    def make(seed: int = 0, **changes: object) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_unetr(**{**TINY, **changes})

    return make


@pytest.fixture(scope="session")
def _base(build: Callable[..., nn.Module]) -> nn.Module:
    return build().eval()


@pytest.fixture
def tiny(_base: nn.Module) -> nn.Module:
    """The tiny UNETR in evaluation mode, the same weights in every test, free to be changed."""
    return copy.deepcopy(_base)


@pytest.fixture
def batch_normalised() -> Callable[[], nn.Module]:
    """A function that builds a UNETR of MONAI's with BatchNorm, which keeps running statistics."""
    from monai.networks.nets import UNETR

    return lambda: UNETR(**TINY, norm_name="batch")


@pytest.fixture(scope="session")
def image() -> Tensor:
    """A batch of one image for the tiny network."""
    return torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def stir() -> Callable[..., nn.Module]:
    """A function that moves every adapter parameter off its start, as training would: `stir(model)`."""

    def move(model: nn.Module, size: float = 0.02, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.adapters.parameters():
                parameter += size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return model

    return move


@pytest.fixture(scope="session")
def distance() -> Callable[[Tensor, Tensor], float]:
    """A function that gives ||a - b|| / ||b||."""

    def relative(a: Tensor, b: Tensor) -> float:
        return float((a.detach().double() - b.detach().double()).norm() / b.detach().double().norm())

    return relative


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lpba40")
    simulate("lpba40", root, subjects=7, seed=0, spacing=6.0)
    return root


@pytest.fixture(scope="session")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that tell left from right, of two seeds; after two steps they find all three classes everywhere."""
    outputs = tmp_path_factory.mktemp("outputs")
    folders = [outputs / "first", outputs / "second"]
    with pytest.MonkeyPatch.context() as patch:
        for folder, extra in zip(folders, (["seed=0"], ["seed=1", "test=null"]), strict=True):
            code = programs.run_script(
                "train", *programs.TINY, f"dataset.root={cohort}", "dataset.task=hippocampus_lr", "adapter.rank=2",
                *extra, f"outputs={outputs}", f"output={folder}", monkeypatch=patch,
            )  # fmt: skip
            assert code == 0
    return folders


@pytest.fixture(scope="session")
def run(trained: list[Path]) -> Path:
    return trained[0]
