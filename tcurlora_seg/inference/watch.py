"""Progress within a volume, since its windows may take minutes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.progress import Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tcurlora_seg.inference.windows import Predictor, count_windows, unwatched
from tcurlora_seg.stopwatch import time_left

_EVERY = 30.0  # seconds between two lines, where there is no terminal for a bar


@contextmanager
def watched(predictors: Sequence[Predictor], heading: str) -> Iterator[None]:
    """Context manager for the progress of the predictors on each volume: a bar, or a line now and then.

    Args:
        predictors: of one segmentation.
        heading: begins the bar or the line; a second volume is named as the second look at it.
    """
    columns = TextColumn("{task.description}", markup=False), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:
        work, done, total, words = bar.add_task(heading, total=None), 0, 0, ""
        started = said = time.monotonic()

        def begin(shape: Sequence[int]) -> None:
            nonlocal done, total, started, words
            words = f"{heading}, second look" if total else heading
            done, total, started = 0, count_windows(predictors, shape), time.monotonic()
            bar.update(work, description=words, total=total, completed=0)

        def tick(windows: int) -> None:
            nonlocal done, said
            done += windows
            bar.update(work, completed=done)
            now = time.monotonic()
            if not sys.stdout.isatty() and now - said > _EVERY and done < total:
                said, left = now, time_left(now - started, done, total)
                print(f"{words}: {done / total:.0%} of {total} windows, {left}", flush=True)

        for predictor in predictors:
            predictor.begin, predictor.tick = begin, tick
        try:
            yield
        finally:
            for predictor in predictors:
                predictor.begin = predictor.tick = unwatched
