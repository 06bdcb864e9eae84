from __future__ import annotations

import pytest
import torch

from tcurlora_seg.data.simulate.head import HIPPOCAMPUS_ML, real_head
from tcurlora_seg.data.simulate.splines import Spline
from tcurlora_seg.data.simulate.warp import Warp, draw_warp, resized, sample
from tcurlora_seg.randomness import generator

HEAD = real_head()


def axes(step: float) -> list[torch.Tensor]:
    return [torch.arange(float(a), float(b) + 0.1, step) for a, b in zip(HEAD.low, HEAD.high, strict=True)]


def still(growth: float = 0.0) -> Warp:
    flat = Spline(torch.zeros(3, 9, 10, 9), HEAD.low, HEAD.high, 36.0)
    return Warp(HEAD, torch.eye(3), torch.zeros(3), [flat], (growth, growth))


def cell_volumes(points: torch.Tensor, step: float) -> torch.Tensor:
    """Determinant of the map's forward differences in every cell."""
    x = points[:, :-1, :-1, :-1]
    columns = [points[:, 1:, :-1, :-1] - x, points[:, :-1, 1:, :-1] - x, points[:, :-1, :-1, 1:] - x]
    return torch.linalg.det(torch.stack(columns).permute(2, 3, 4, 1, 0) / step)


@pytest.mark.parametrize("seed", range(12))
def test_no_warp_folds(seed: int) -> None:
    warp = draw_warp(HEAD, generator("test", seed), target=True)
    volumes = cell_volumes(warp.points(axes(3.0)), 3.0)
    assert float(volumes.min()) > 0.05
    assert 0.75 < float(volumes.mean()) < 1.35  # of the whole head


def test_far_too_large_bends_are_scaled_until_they_do_not_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Spline.draw.__func__

    def wild(cls: type, *args: object, deviation: float, **kwargs: object) -> Spline:
        return draw(cls, *args, deviation=20 * deviation, **kwargs)

    monkeypatch.setattr(Spline, "draw", classmethod(wild))
    warp = draw_warp(HEAD, generator("test", 0), target=False)
    assert float(cell_volumes(warp.points(axes(3.0)), 3.0).min()) > 0


def test_without_a_change_the_head_stays_as_it_is() -> None:
    points = still().points(axes(1.0))
    label = sample(HEAD.labels, still().grid(points), mode="nearest")
    assert torch.equal(label, HEAD.labels)


@pytest.mark.parametrize(("growth", "smaller"), [(9.0, True), (-5.0, False)])
def test_the_hippocampus_shrinks_and_grows_on_its_own(growth: float, smaller: bool) -> None:
    warp, step = still(growth), 1.3  # not the head's own grid, where nearest voxels hide what moves by half of one
    points = warp.points(axes(step))
    label = sample(HEAD.labels, warp.grid(points), mode="nearest")[0]
    volume = float(((label == 165) | (label == 166)).sum()) * step**3 / 2000

    assert (0.5 if smaller else 1.08) < volume / HIPPOCAMPUS_ML < (0.85 if smaller else 1.6)
    assert float(cell_volumes(points, step).min()) > 0.05
    far = (points - still().points(axes(step))).norm(dim=0)
    assert float(far.max()) < 2 and float(far[:, :45].max()) < 0.05  # the occipital lobe does not notice


AROUND_HIPPOCAMPI = [torch.arange(*ends, 1.3) for ends in ((-60.0, 60.0), (-70.0, 30.0), (-55.0, 40.0))]


def hippocampi_ml(warp: Warp) -> tuple[float, float]:
    label = sample(HEAD.labels, warp.grid(warp.points(AROUND_HIPPOCAMPI)), mode="nearest")[0]
    left, right = (float((label == side).sum()) * 1.3**3 / 1000 for side in (165, 166))
    return left, right


@pytest.mark.parametrize(("seed", "left", "right"), [(0, 3.3, 4.6), (1, 4.7, 4.5), (2, 3.4, 3.3)])
def test_each_hippocampus_gets_the_volume_asked_for_without_folding(seed: int, left: float, right: float) -> None:
    warp = resized(draw_warp(HEAD, generator("test", seed), target=True), left, right)
    assert hippocampi_ml(warp) == pytest.approx((left, right), rel=0.04)
    assert float(cell_volumes(warp.points(AROUND_HIPPOCAMPI), 1.3).min()) > 0.05


def test_what_cannot_be_reached_is_approached_without_folding() -> None:
    for wanted in (0.1, 50.0):
        warp = resized(still(), wanted, wanted)
        assert float(cell_volumes(warp.points(AROUND_HIPPOCAMPI), 1.3).min()) > 0.4
        assert all(2.4 < volume < 7 for volume in hippocampi_ml(warp))


def test_the_heads_hippocampi_are_single_smooth_pieces_of_grey_matter() -> None:
    from scipy import ndimage

    for side in (165, 166):
        region = (HEAD.labels[0] == side).numpy()
        assert abs(region.sum() / 1000 - HIPPOCAMPUS_ML) < 0.15
        assert ndimage.label(region)[1] == 1
        core = HEAD.t1[0].numpy()[region]
        assert 78 < core.mean() < 86 and ((core > 60) & (core < 98)).mean() > 0.85
