from __future__ import annotations

import pytest

from tcurlora_seg.data.sampler import SampleStream


def stream(**changes: int) -> SampleStream:
    return SampleStream(**{"cases": 5, "length": 8, "seed": 1, **changes})


def epochs(source: SampleStream, n: int) -> list:
    return [sample for _ in range(n) for sample in source]


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
def test_starting_at_a_position_equals_having_come_there(position: int) -> None:
    whole = epochs(stream(), 3)
    late = stream()
    late.position = position
    assert epochs(late, 3 - position // 8) == whole[position:]


def test_an_epoch_that_began_late_ends_where_the_whole_one_does() -> None:
    late = stream()
    late.position = 11
    assert len(list(late)) == 5 and late.position == 16 and len(late) == 8


@pytest.mark.parametrize("world", [2, 4])
def test_devices_share_the_stream_of_one(world: int) -> None:
    parts = [epochs(stream(rank=rank, world=world), 2) for rank in range(world)]
    shuffled = [sample for together in zip(*parts, strict=True) for sample in together]
    assert shuffled == epochs(stream(), 2)
    assert len(stream(world=world)) == 8 // world
