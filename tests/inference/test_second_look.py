"""Second look at a head without its skull."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from tcurlora_seg.config.checks import check_second_look
from tcurlora_seg.data.notes import listen
from tcurlora_seg.data.preparation import Preparation
from tcurlora_seg.data.prepared import PreparedImage, Volume, prepare_image
from tcurlora_seg.data.task import Task
from tcurlora_seg.errors import UserError
from tcurlora_seg.inference.native import segment
from tcurlora_seg.inference.second_look import MARGIN, RIM, brain_of, look_again
from tcurlora_seg.inference.watch import watched
from tcurlora_seg.inference.windows import Predictor, probabilities

SIZES = (2.0, 2.0, 2.0)


def ball(radius: float, shape: tuple[int, ...] = (80, 80, 80), sizes: tuple[float, ...] = SIZES) -> np.ndarray:
    """Voxels up to `radius` mm from the middle."""
    axes = [(np.arange(n) - (n - 1) / 2) * size for n, size in zip(shape, sizes, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius**2


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


class Bright(nn.Module):
    """Class 1 where an image is brighter than nothing, by its own intensity."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), self.weight * x], 1)


def scored(intensity: np.ndarray) -> MetaTensor:
    """(1, X, Y, Z) of mean 0 and deviation 1 over what is not 0."""
    shown = intensity != 0
    image = np.where(shown, (intensity - intensity[shown].mean()) / intensity[shown].std(), 0.0)
    return MetaTensor(torch.from_numpy(image[None]).float(), affine=torch.diag(torch.tensor([*SIZES, 1.0])))


def stored(intensity: np.ndarray) -> PreparedImage:
    """As prepared from a file."""
    volume = Volume("a", intensity.astype(np.float32), np.diag([*SIZES, 1.0]))
    return prepare_image([volume], preparation=Preparation(), spacing=None, case="a")


@pytest.fixture
def head() -> np.ndarray:
    """A brain of intensity 5 to 7 in a darker skull of 1 to 3, a gap of nothing between them."""
    rng = np.random.default_rng(0)
    brain, skull = ball(55), ball(75) & ~ball(65)
    return np.where(brain, rng.uniform(5, 7, brain.shape), np.where(skull, rng.uniform(1, 3, brain.shape), 0.0))


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Bright(), window=(80, 80, 80), classes=2, second_look=True)


def test_the_brain_is_a_solid_piece_with_its_gaps_filled():
    brain = ball(60)
    found = brain & ~ball(20)  # a ventricle
    found[:, 39:41, 60:] = False  # a fissure of 4 mm
    found[38:42, 38:42, :] |= True  # a thin bridge of 8 mm from end to end
    found[:14, :14, :14] = True
    result = brain_of(found, SIZES)
    assert dice(result, ball(60 + MARGIN)) > 0.98
    assert not result[7, 7, 7] and not result[40, 40, 2]  # neither the piece apart nor the ends of the bridge
    assert result[40, 40, 40] and result[40, 39, 62]


def test_the_brain_is_measured_in_millimetres_and_may_end_with_the_image():
    shape, sizes = (120, 60, 40), (1.0, 2.0, 3.0)
    brain = ball(55, shape, sizes)
    result = brain_of(brain, sizes)
    expected = ball(55 + MARGIN, shape, sizes)
    assert dice(result, expected) > 0.98
    assert dice(brain_of(brain[60:], sizes)[:1], expected[60:61]) > 0.98


def test_an_image_of_nothing_but_brain_is_all_brain_and_nothing_solid_is_none():
    assert brain_of(np.ones((30, 20, 30), bool), SIZES).all()
    assert not brain_of(np.zeros((30, 30, 30), bool), SIZES).any()
    assert not brain_of(ball(6, (30, 30, 30)), SIZES).any()


def test_the_second_look_is_scored_without_the_skull_and_counts_half(head, predictor):
    image = scored(head)
    first = probabilities([predictor], image)
    with listen() as notes:
        both = look_again([predictor], image, first.clone())
    brain = brain_of((first.argmax(0) > 0).numpy(), SIZES)
    assert dice(brain, ball(55 + MARGIN)) > 0.98 and brain[ball(55)].all()
    alone = scored(np.where(brain, head, 0.0)).as_tensor()[0]
    expected = (first[1] + torch.sigmoid(2 * alone)) / 2
    away = torch.from_numpy(distance_transform_edt(~brain, sampling=SIZES))
    inside, rim = away == 0, (away > 0) & (away <= RIM)
    assert torch.allclose(both[1][inside], expected[inside], atol=1e-5)
    assert torch.equal(both[1][rim], first[1][rim]) and bool((both[1][away > RIM] == 0).all())
    assert torch.allclose(both.sum(0), torch.ones(both.shape[1:]))
    assert float((both[1] - first[1])[inside].abs().mean()) > 0.1  # or the skull would not matter
    share = 1 - (brain & (head != 0)).sum() / (head != 0).sum()
    assert notes == [f"{share:.0%} of the image surround the brain; a second look was taken without them"]


def test_a_segmentation_takes_the_second_look_where_it_is_asked_for(head, predictor):
    case, task = stored(head), Task("brain", {1: (1,)}, {"brain": (1,)})
    expected = look_again([predictor], case.image, probabilities([predictor], case.image)).argmax(0)
    twice = segment([predictor], case, task)
    assert (twice.prepared == expected.numpy()).all() and twice.native.any() and twice.probabilities is None
    predictor.second_look = False
    once = segment([predictor], case, task)
    assert (once.native != twice.native).sum() > 10_000


def test_a_brain_alone_and_a_part_of_one_are_looked_at_once(head, predictor):
    calls: list[int] = []
    predictor.tick = calls.append
    small = np.where(ball(40), 6.0, head)  # a brain of 268 ml within more
    for values in (np.where(ball(55), head + 5, 0.0), head[25:55, 25:55, 25:55] + 1, small):
        found = torch.stack([torch.full(values.shape, 0.5), torch.from_numpy(values > 0).float()])
        found[1] *= torch.from_numpy(ball(40)) if values is small else 1
        assert torch.equal(look_again([predictor], scored(values), found.clone()), found)
    assert not calls


def test_the_time_that_is_left_is_that_of_the_look_in_hand(monkeypatch, capsys, predictor):
    clock = iter([0.0, 0.0, 0.0, 1000.0, 1060.0])  # the start of all, a look, its window, the second look, its window
    monkeypatch.setattr("tcurlora_seg.inference.watch.time", SimpleNamespace(monotonic=lambda: next(clock)))
    predictor.window = (40, 80, 80)
    with watched([predictor], "head"):
        predictor.begin((80, 80, 80))
        predictor.tick(1)
        predictor.begin((80, 80, 80))
        predictor.tick(1)
    assert capsys.readouterr().out == "head, second look: 33% of 3 windows, about 2 min left\n"


def test_a_second_look_needs_a_z_score():
    check_second_look(False, "window")
    with pytest.raises(UserError, match="intensity=zscore, which here is window"):
        check_second_look(True, "window")
    with pytest.raises(UserError, match="true or false"):
        check_second_look(3, "zscore")
