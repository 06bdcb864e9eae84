"""Sample stream for training: sample k is a pure function of (seed, k), so a stream can begin anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """Endless stream that goes through all cases in a new order in every lap, cut into epochs of equal length.

    Iterating gives the rest of the epoch that `position` lies in. With several devices device `rank` takes every
    `world`-th sample.
    """

    def __init__(
        self, *, cases: int, length: int, seed: int, position: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        """A stream over a number of cases.

        Args:
            cases: how many there are.
            length: samples that make an epoch, over all devices.
            seed: of the orders.
            position: gives the number of the next sample, over all devices. It is asked whenever an epoch starts, so
                that however training was interrupted, the stream goes on where the optimiser stands.
            rank: number of this device.
            world: number of devices.
        """
        self.cases, self.length, self.seed, self.rank, self.world = cases, length, seed, rank, world
        self.position = position
        self._order: tuple[int, list[int]] = (-1, [])

    def sample(self, number: int) -> Sample:
        """Sample `number` of the stream."""
        lap, place = divmod(number, self.cases)
        if self._order[0] != lap:
            order = torch.randperm(self.cases, generator=generator("order", self.seed, lap))
            self._order = (lap, order.tolist())
        return Sample(lap, self._order[1][place])

    def __iter__(self) -> Iterator[Sample]:
        start = self.position()
        end = (start // self.length + 1) * self.length
        for number in range(start + self.rank, end, self.world):
            yield self.sample(number)

    def __len__(self) -> int:
        """Samples of a whole epoch on one device."""
        return self.length // self.world
