"""The stream of training samples: sample k is a pure function of (seed, k), so a stream can begin anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from tcurlora_seg.randomness import generator


class Sample(NamedTuple):
    """One draw of one case.

    Attributes:
        lap: how many times the stream had gone through all cases before.
        case: position of the case in the training set.
    """

    lap: int
    case: int


class SampleStream(Sampler[Sample]):
    """An endless stream that goes through all cases in a new order in every lap, cut into epochs of equal length.

    Iterating moves `position` to the next epoch and gives what is left of the one it was in. With several devices
    device `rank` takes every `world`-th sample.

    Attributes:
        position: number of the next sample, over all devices; set it to go on where an interrupted run stopped.
    """

    def __init__(self, *, cases: int, length: int, seed: int, rank: int = 0, world: int = 1) -> None:
        """A stream over `cases` cases; `length` samples make an epoch, over all devices."""
        self.cases, self.length, self.seed, self.rank, self.world = cases, length, seed, rank, world
        self.position = 0
        self._order: tuple[int, list[int]] = (-1, [])

    def sample(self, number: int) -> Sample:
        """Sample `number` of the stream."""
        lap, place = divmod(number, self.cases)
        if self._order[0] != lap:
            order = torch.randperm(self.cases, generator=generator("order", self.seed, lap))
            self._order = (lap, order.tolist())
        return Sample(lap, self._order[1][place])

    def __iter__(self) -> Iterator[Sample]:
        start = self.position
        self.position = (start // self.length + 1) * self.length  # now, since Lightning never asks past the last sample
        for number in range(start + self.rank, self.position, self.world):
            yield self.sample(number)

    def __len__(self) -> int:
        """Samples of a whole epoch on one device."""
        return self.length // self.world
