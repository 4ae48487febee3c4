"""The journal on a real Redis against a model of it: whatever is appended, claimed, read, kept, lost and taken over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from otel_agentbus.journal.redis import Entry, Kept, Lease, LeaseLost, RedisJournal
from otel_agentbus.journal.redis.asking import Asking

KEYS = strategies.sampled_from(["a", "b", "run ü", "{x}:y"])
GROUPS = strategies.sampled_from(["relay", "relay", "relay", "other"])
SHARES = strategies.sampled_from([1.0, 0.5, 0.0])
NAME = "model"
STREAM = "{model:0}:events"


class Deaf:
    """Asks, and does not hear the answer of a script."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def run(self, *script: Any) -> None:
        self._asking.run(*script)
        raise TimeoutError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asking, name)


class Group:
    """What is to be known of one group of workers."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.stale: list[Lease] = []
        self.begun = 0  # how many entries were gone when it came first
        self.position = 0  # how many entries it has acknowledged, or lost
        self.reached = 0
        self.missed: set[int] = set()  # by the lease that has it now
        self.lost = 0
        self.trees: dict[str, list[Entry]] = {}
        self.over: set[str] = set()
        self.marks: dict[str, int] = {}
        self.count = 0
        self.last = "0-0"


class Model(RuleBasedStateMachine):
    """One shard, two groups of workers."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = redis.Redis.from_url(self.url)
        self.client.flushall()
        self.entries: list[Entry] = []
        self.gone = 0  # from the front of the stream
        self.groups: dict[str, Group] = {}
        self.journals = {name: RedisJournal(self.url, name=NAME, shards=1, group=name) for name in ("relay", "other")}

    def teardown(self) -> None:
        for journal in self.journals.values():
            journal.close()
        self.client.close()

    def _owned(self) -> bool:
        return any(group.lease is not None for group in self.groups.values())

    def _owner(self, name: str) -> tuple[Group, Lease]:
        """The group, or the other one where only that has a worker."""
        group = self.groups.get(name)
        if group is None or group.lease is None:
            group = next(each for each in self.groups.values() if each.lease is not None)
        assert group.lease is not None
        return group, group.lease

    def _stored(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        found: Any = self.client.xrange(STREAM)
        return list(found)

    @initialize()
    def begin(self) -> None:
        self.claim("relay")

    @rule(keys=strategies.lists(KEYS, min_size=1, max_size=5), source=strategies.sampled_from(["s", "t"]))
    def append(self, keys: list[str], source: str) -> None:
        first = len(self.entries)
        datas = [b"%d" % (first + n) for n in range(len(keys))]
        self.journals["relay"].append_many(datas, keys, [source] * len(keys))
        ids = [number.decode() for number, _ in self._stored()][-len(keys) :]
        self.entries += [Entry(*each) for each in zip(ids, keys, [source] * len(keys), datas, strict=True)]

    @precondition(lambda self: len(self.groups) < 2 or any(each.lease is None for each in self.groups.values()))
    @rule(name=GROUPS)
    def claim(self, name: str) -> None:
        lease = self.journals[name].shard(0).claim(f"worker of {name}", 60)
        group = self.groups.get(name)
        if group is not None and group.lease is not None:
            assert lease is None
            return
        assert lease is not None
        if group is None:
            group = self.groups[name] = Group()
            group.begun = group.position = self.gone
        assert lease.position == group.last
        group.lease, group.reached, group.missed = lease, group.position, set()

    @precondition(_owned)
    @rule(name=GROUPS, orderly=strategies.booleans())
    def leave(self, name: str, orderly: bool) -> None:
        """Release it; or run out of time, as a worker that is killed does."""
        group, lease = self._owner(name)
        if orderly:
            lease.release()
        else:
            self.client.delete(f"{{{NAME}:0}}:{lease._names.own}:owner")
            group.stale.append(lease)
        group.lease = None

    @precondition(_owned)
    @rule(name=GROUPS, most=strategies.integers(1, 6))
    def read(self, name: str, most: int) -> None:
        group, lease = self._owner(name)
        begin = max(group.reached, self.gone)
        expected = self.entries[begin : begin + most]
        assert lease.read(most) == expected
        if expected:
            group.missed |= set(range(group.reached, begin))
            group.reached = begin + len(expected)

    @precondition(_owned)
    @rule(
        name=GROUPS,
        share=SHARES,
        end=strategies.sampled_from(["keep", "over", "drop"]),
        twice=strategies.booleans(),
    )
    def ack(self, name: str, share: float, end: str, twice: bool) -> None:
        group, lease = self._owner(name)
        read = [n for n in range(group.position, group.reached) if n not in group.missed]
        taken = read[: round(len(read) * share)]
        grown: dict[str, list[Entry]] = {}
        for number in taken:
            grown.setdefault(self.entries[number].key, []).append(self.entries[number])
        ended = sorted(grown)[:1] if end != "keep" else []
        marks = {self.entries[number].source: number for number in taken}
        kept = Kept(
            grown=grown,
            over=ended if end == "over" else (),
            dropped=ended if end == "drop" else (),
            marks=marks,
            counters={"series": {"n": len(taken), "usd": "0.1"}},
        )
        position = self.entries[taken[-1]].id if taken else lease.position
        if twice:  # as after an answer that was lost
            asking = lease._asking
            lease._asking = Deaf(asking)  # type: ignore[assignment]
            with pytest.raises(TimeoutError):
                lease.ack(position, kept)
            lease._asking = asking
        lease.ack(position, kept)
        self._acknowledged(group, taken, grown, ended, end, marks)

    def _acknowledged(
        self, group: Group, taken: list[int], grown: dict[str, list[Entry]], ended: list[str], end: str, marks: Any
    ) -> None:
        for key in ended:  # and begun anew, where it has grown
            group.trees.pop(key, None)
            if end == "over":
                group.over.add(key)
        for key, entries in grown.items():
            group.trees.setdefault(key, []).extend(entries)
        group.marks.update(marks)
        group.count += 1
        if taken:
            lost = {number for number in group.missed if number < taken[-1]}
            group.lost += len(lost)
            group.missed -= lost
            group.position, group.last = taken[-1] + 1, self.entries[taken[-1]].id
        self.gone = max(self.gone, min(each.position for each in self.groups.values()))

    @rule(left=strategies.integers(0, 4))
    def trim(self, left: int) -> None:
        """The bound on the length, at once."""
        self.client.xtrim(STREAM, maxlen=left, approximate=False)
        self.gone = max(self.gone, len(self.entries) - left)

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        assert [number.decode() for number, _ in self._stored()] == [each.id for each in self.entries[self.gone :]]
        for name, group in self.groups.items():
            log = self.journals[name].shard(0)
            waiting = len(self.entries) - max(group.position, self.gone)
            assert log.lag() == waiting
            assert log.trimmed() == group.lost + max(self.gone - group.position, 0)
            assert self.client.hget(f"{{{NAME}:0}}:groups", name) == group.last.encode()
            if group.lease is not None:
                self._kept(group, group.lease)

    def _kept(self, group: Group, lease: Lease) -> None:
        keys = sorted({entry.key for entry in self.entries} | {"never"})
        assert {key: kept for key, kept in lease.trees(keys).items() if kept} == group.trees
        assert lease.open_trees() == len(group.trees)
        assert lease.are_over(keys) == group.over
        assert lease.marks(["s", "t", "u"]) == group.marks
        dollars = f"{group.count // 10}.{group.count % 10}"
        n = sum(map(len, group.trees.values())) if not (group.over or group.lost) else None
        counters = lease.counters().get("series")
        assert counters is None if group.count == 0 else counters is not None and counters["usd"] == dollars
        if n is not None and counters is not None:
            assert int(counters["n"]) >= n

    @invariant()
    def a_stale_owner_changes_nothing(self) -> None:
        for group in self.groups.values():
            if group.lease is None or not group.stale:
                continue
            before = sorted((key, self.client.dump(key)) for key in self.client.scan_iter())
            for lease in group.stale:
                assert not lease.renew()
                with pytest.raises(LeaseLost):
                    lease.read(1)
                with pytest.raises(LeaseLost):
                    lease.ack(lease.position, Kept(marks={"s": 99}, counters={"series": {"n": 1}}))
                lease.release()
            assert sorted((key, self.client.dump(key)) for key in self.client.scan_iter()) == before
            group.stale.clear()


@pytest.fixture
def _model(redis_url: str) -> Iterator[None]:
    Model.url = redis_url
    yield
    Model.url = ""


@pytest.mark.usefixtures("_model")
def test_the_journal_loses_and_forgets_nothing_but_what_it_counts() -> None:
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
