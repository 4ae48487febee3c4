"""Random programs through a real Redis, read in any portions by workers that are killed at any moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from otel_agentbus import Settings
from otel_agentbus.events import Event
from otel_agentbus.journal.redis import RedisJournal
from otel_agentbus.recording import record_of
from otel_agentbus.relay import shard as shards
from otel_agentbus.relay.exporting import Outlet, Undelivered
from otel_agentbus.relay.makers import Makers
from otel_agentbus.relay.shard import Shard

from ..relaying import encoded, key_of, opening
from ..test_relay_trees import DAY_S, Troupe, mixed, wanted


class Deadly(Outlet):
    """Keeps what is sent; now and then the worker dies before or after that."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__(())
        self.sent: list[ReadableSpan] = []
        self.dice: random.Random | None = dice

    def deliver(self, spans: Sequence[ReadableSpan], go_on: Callable[[], bool]) -> list[bytes]:
        fate = 1.0 if self.dice is None else self.dice.random()
        if fate < 0.15:
            raise Undelivered
        self.sent += spans
        if fate < 0.3:
            raise Undelivered
        return []


class Work:
    """Workers one after the other, over all shards."""

    def __init__(self, url: str, dice: random.Random) -> None:
        self.journal = RedisJournal(url, shards=2)
        self.dice = dice
        self.outlet = Deadly(dice)
        self.killed = 0
        self.begin()

    def begin(self) -> None:
        """As a new worker does."""
        self.makers = Makers(Settings(), opening)
        leases = [self.journal.shard(number).claim("w", 60) for number in range(self.journal.shards)]
        self.leases = [lease for lease in leases if lease is not None]
        assert len(self.leases) == self.journal.shards
        self.shards = [Shard(lease, self.makers, self.outlet, Settings(), metrics=False) for lease in self.leases]

    def all(self, later_s: float) -> None:
        """Until nothing is left, when it is so many seconds later."""
        busy = True
        while busy:
            try:
                now_ms = self.journal.now_ms() + round(later_s * 1000)
                busy = False
                for shard in self.shards:
                    busy |= shard.turn(now_ms, lambda: True, self.dice.choice([1, 5, 1000])) is not None
            except Undelivered:
                self.killed += 1
                for lease in self.leases:
                    lease.release()
                self.begin()


def write(journal: RedisJournal, events: list[Event], dice: random.Random) -> None:
    """Write them in portions, some of which come twice."""
    while events:
        part, events = events[: (most := dice.randint(1, 30))], events[most:]
        for _ in range(dice.choice([1, 1, 1, 2])):
            journal.append_many(
                [record_of(event) for event in part],
                [key_of(event) for event in part],
                [event.source or "" for event in part],
            )


@pytest.mark.parametrize("seed", range(20))
def test_the_spans_are_those_of_the_live_process(redis_url: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(shards, "LOOK_S", 0.0)
    told = Troupe(seed, 3).told
    write(RedisJournal(redis_url, shards=2), mixed(told, dice), dice)
    monkeypatch.setattr(shards, "MOST", dice.choice([3, 10, 50]))
    work = Work(redis_url, dice)
    work.all(0.0)
    work.all(60.0)
    work.outlet.dice = None
    work.all(DAY_S + 120)
    assert encoded(work.outlet.sent) == wanted(told)
    assert [(lease.open_trees(), work.journal.shard(lease.shard).lag()) for lease in work.leases] == [(0, 0)] * 2
