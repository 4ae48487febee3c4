"""Durations in a fixed room: their quantiles, right to one hundredth of their value."""

from __future__ import annotations

import math

from .attributes import number
from .measures import MAX_SECONDS

#: By how much a quantile may be wrong, as a share of the true one; a hair less than is promised, for the rounding.
ERROR = 0.0099
#: What is shorter counts as nothing.
SHORTEST = 1e-6

_WIDTH = math.log((1 + ERROR) / (1 - ERROR))
_NOTHING = math.floor(math.log(SHORTEST) / _WIDTH) - 1


class Latencies:
    """Counts durations (seconds, up to a year) in buckets whose widths grow with them.

    A quantile is the duration of the nearest rank, with a relative error of at most 1 %; it is exact where all are
    equal. There are at most some 1,600 buckets, of which model calls fill about a hundred.
    """

    __slots__ = ("_buckets", "_counted", "_highest", "_lowest")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._counted = 0
        self._lowest, self._highest = math.inf, 0.0

    def add(self, duration: object) -> None:
        """Count a duration, if it can be one."""
        seconds = number(duration)
        if seconds is None or not 0 <= seconds <= MAX_SECONDS:
            return
        if seconds < SHORTEST:
            seconds, bucket = 0.0, _NOTHING
        else:
            bucket = math.ceil(math.log(seconds) / _WIDTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self._counted += 1
        self._lowest = min(self._lowest, seconds)
        self._highest = max(self._highest, seconds)

    def merge(self, other: Latencies) -> None:
        """Count what another one has counted."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self._counted += other._counted
        self._lowest = min(self._lowest, other._lowest)
        self._highest = max(self._highest, other._highest)

    def quantile(self, percent: int) -> float | None:
        """The duration that so many percent of them do not exceed; None where there is none."""
        rank = (percent * self._counted + 99) // 100
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                middle = 0.0 if bucket == _NOTHING else (1 - ERROR) * math.exp(bucket * _WIDTH)
                return min(max(middle, self._lowest), self._highest)
        return None
