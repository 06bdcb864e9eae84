from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcurlora_seg.data.simulate.appearance import CONTRASTS, blur, contrast, scan
from tcurlora_seg.data.simulate.head import real_head
from tcurlora_seg.data.simulate.tumour import ENHANCING, NECROTIC, OEDEMA, draw_tumour, paint
from tcurlora_seg.randomness import generator

HEAD = real_head()
STEP = 3
T1 = HEAD.t1[0, ::STEP, ::STEP, ::STEP].contiguous()
BRAIN = T1 > 0
AXES = [torch.arange(float(a), float(b) + 0.1, STEP) for a, b in zip(HEAD.low, HEAD.high, strict=True)]
HEIGHT = AXES[2].expand(T1.shape)


def tumour(seed: int) -> Tensor:
    return draw_tumour(T1, BRAIN, HEIGHT, AXES, generator("test", seed))


def touches(a: Tensor, b: Tensor) -> bool:
    grown = torch.nn.functional.max_pool3d(a.float()[None, None], 3, 1, 1)[0, 0] > 0
    return bool((grown & b).any())


def test_tumours_lie_in_the_brain_with_the_core_inside_the_oedema() -> None:
    volumes = []
    for seed in range(20):
        label = tumour(seed)
        assert set(label.unique().tolist()) <= {0, NECROTIC, OEDEMA, ENHANCING}
        assert not label[~BRAIN].any()
        assert not ((label > 0) & (T1 < 50)).any()  # liquor stays free
        core, whole = (label == NECROTIC) | (label == ENHANCING), label > 0
        share = float(core.sum() / whole.sum())
        assert 0.2 < share < 0.75 and touches(core, label == OEDEMA)
        volumes.append(float(whole.sum()) * STEP**3 / 1000)
    assert min(volumes) > 4.9 and max(volumes) < 121
    assert min(volumes) < 15 and max(volumes) > 60  # small ones and large ones


def test_some_have_two_foci_and_some_do_not_enhance() -> None:
    from scipy import ndimage

    labels = [tumour(seed) for seed in range(40)]
    assert any(not (label == ENHANCING).any() for label in labels)
    pieces = [ndimage.label((label == ENHANCING) | (label == NECROTIC))[0] for label in labels]
    large = [sum((piece == i).sum() > 5 for i in range(1, piece.max() + 1)) for piece in pieces]
    assert 1 <= sum(n > 1 for n in large) < 25


@pytest.mark.parametrize(
    ("modality", "brighter", "darker"),
    [("t1ce", ENHANCING, NECROTIC), ("t2", NECROTIC, None), ("flair", OEDEMA, None), ("t1", None, NECROTIC)],
)
def test_each_modality_shows_its_part_of_the_tumour(modality: str, brighter: int | None, darker: int | None) -> None:
    label = next(found for found in map(tumour, range(20)) if (found == ENHANCING).sum() > 300)
    g = generator("test", modality)
    ideal = contrast(T1, modality, g)
    image = paint(ideal, label, modality, AXES, g)
    white = float(image[(label == 0) & (T1 > 100)].median())
    if brighter:
        assert float(image[label == brighter].median()) > 1.15 * white
    if darker:
        assert float(image[label == darker].median()) < 0.7 * white
    far = blur((label > 0).float(), 2.0) < 1e-6
    assert torch.equal(image[far], ideal[far])


def test_contrasts_order_the_tissues_as_the_modality_does() -> None:
    tissue = torch.tensor([35.0, 82.0, 104.0])
    for seed in range(10):
        found = {name: contrast(tissue, name, generator("test", seed, name)).tolist() for name in CONTRASTS}
        assert all(found[name] == sorted(found[name]) for name in ("t1", "t1ce"))
        assert found["t2"] == sorted(found["t2"], reverse=True)
        assert found["flair"][1] > found["flair"][2] > found["flair"][0]


def test_blurring_keeps_the_sum_and_spreads_as_a_gaussian_does() -> None:
    point = torch.zeros(21, 21, 21)
    point[10, 10, 10] = 1.0
    spread = blur(point, 1.5)
    torch.testing.assert_close(spread.sum(), torch.tensor(1.0))
    variance = (spread.sum((1, 2)) * (torch.arange(21) - 10.0) ** 2).sum()
    assert abs(float(variance) - 1.5**2) < 0.02
    assert blur(point, 0.1) is point


def test_a_scan_is_positive_in_the_brain_and_exactly_0_outside() -> None:
    image = scan(contrast(T1, "t1", generator("test")), BRAIN, AXES, HEAD, generator("test", 1))
    assert image.dtype == torch.int16
    assert torch.equal(image > 0, BRAIN)
    assert 500 < float(image[T1 > 100].float().median()) < 1000
