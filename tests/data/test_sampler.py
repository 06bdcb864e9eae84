from __future__ import annotations

import pytest

from tcurlora_seg.data.sampler import SampleStream


def stream(position: int = 0, **changes: int) -> SampleStream:
    return SampleStream(**{"cases": 5, "length": 8, "seed": 1, "position": lambda: position, **changes})


def epochs(n: int, **changes: int) -> list:
    return [sample for epoch in range(n) for sample in stream(8 * epoch, **changes)]


def test_every_lap_visits_every_case_once_in_another_order() -> None:
    laps = [[stream().sample(5 * lap + i) for i in range(5)] for lap in range(6)]
    assert all({s.lap for s in samples} == {lap} for lap, samples in enumerate(laps))
    orders = [tuple(s.case for s in samples) for samples in laps]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len(set(orders)) > 1


def test_a_sample_is_a_pure_function_of_seed_and_number() -> None:
    forward = [stream().sample(k) for k in range(20)]
    assert [stream().sample(k) for k in reversed(range(20))] == forward[::-1]
    assert [stream(seed=2).sample(k) for k in range(20)] != forward


@pytest.mark.parametrize("position", [0, 3, 8, 13])
def test_an_epoch_that_begins_late_ends_where_the_whole_one_does(position: int) -> None:
    end = (position // 8 + 1) * 8
    assert list(stream(position)) == epochs(3)[position:end]
    assert len(stream(position)) == 8


def test_the_position_is_asked_whenever_an_epoch_starts() -> None:
    at = iter([0, 13])
    moving = SampleStream(cases=5, length=8, seed=1, position=lambda: next(at))
    assert [*moving, *moving] == epochs(1) + epochs(2)[13:]


@pytest.mark.parametrize("world", [2, 4])
def test_devices_share_the_stream_of_one(world: int) -> None:
    parts = [epochs(2, rank=rank, world=world) for rank in range(world)]
    shuffled = [sample for together in zip(*parts, strict=True) for sample in together]
    assert shuffled == epochs(2)
    assert len(stream(world=world)) == 8 // world
