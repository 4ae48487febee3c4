"""What needs no broker: the records with their accounts, the keys, the order, and what waits on disk."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies

from otel_agentbus import Settings
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    DeploymentFailed,
    DomainEvent,
    Event,
    HeartbeatTick,
    LlmResponse,
    RecoveryCompleted,
    UnknownEvent,
)
from otel_agentbus.feeding import Feed
from otel_agentbus.feeding.line import BATCH, Line
from otel_agentbus.journal import SegmentJournal
from otel_agentbus.journal.outbox import Outbox, Parcel
from otel_agentbus.recording import Keys, Opening, read_record, record_of
from otel_agentbus.recording.keys import RUNS
from otel_agentbus.telemetry.accounts import Account, RunAccount
from otel_agentbus.telemetry.spool.directories import spools
from otel_agentbus.telemetry.told_accounts import account_told
from otel_agentbus.telemetry.usage import Usage
from otel_agentbus.testing import wait_until


class Block:
    """Stands for a block of the process that emits."""

    ended = False


COUNTS = strategies.none() | strategies.integers(0, 10**9)
MONEY = strategies.floats(0, 10**6)
TEXTS = strategies.text() | strategies.just('","@account":[1],"@block":true}')
ACCOUNTS = strategies.builds(
    Account,
    strategies.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, strategies.integers(0, 5)),
    strategies.none() | MONEY,
    TEXTS,
    MONEY,
    strategies.none() | TEXTS,
)
RUN_ACCOUNTS = strategies.builds(
    RunAccount, strategies.integers(0, 10**9), strategies.integers(0, 10**9), strategies.lists(TEXTS).map(tuple)
)
INSIDE = strategies.fixed_dictionaries({}, optional={"@account": strategies.just([1]), "@block": strategies.just(True)})
ATTRIBUTES = strategies.dictionaries(TEXTS, TEXTS | INSIDE | strategies.lists(INSIDE), max_size=3)
TOLD: strategies.SearchStrategy[tuple[Event, Any]] = strategies.one_of(
    strategies.tuples(
        strategies.builds(
            LlmResponse,
            model_provider=strategies.just("p"),
            model=strategies.just("m"),
            duration=strategies.just(0.5),
            success=strategies.just(True),
            attributes=ATTRIBUTES,
            usage=strategies.none() | strategies.just({"a": 1, "@account": 1}),
        ),
        strategies.none() | ACCOUNTS,
    ),
    strategies.tuples(
        strategies.builds(AgentEnd, agent=strategies.just("a"), attributes=ATTRIBUTES, output=TEXTS | INSIDE),
        strategies.none() | RUN_ACCOUNTS,
    ),
    strategies.tuples(
        strategies.builds(CacheHit, cache_type=strategies.just("semantic"), attributes=ATTRIBUTES),
        strategies.none() | MONEY,
    ),
)


@given(told=TOLD, by_block=strategies.booleans())
def test_a_record_with_an_account_tells_both_and_one_without_is_as_it_always_was(
    told: tuple[Event, Any], by_block: bool
) -> None:
    event, account = told
    if by_block:
        event.origin = Block()
    plain = record_of(event)
    event.account = account
    data = record_of(event)
    again, emitted_by_block = read_record(data, account_told)
    assert getattr(again, "account", None) == account
    assert type(getattr(again, "account", None)) is type(account)
    assert (again, emitted_by_block, again.replayed) == (event, by_block, True)
    without, _ = read_record(data)
    assert (without, getattr(without, "account", "none")) == (event, "none")
    again.origin = Block() if by_block else None
    assert record_of(again) == data
    assert (data == plain) is (account is None)


def test_an_unknown_event_keeps_what_it_calls_its_account() -> None:
    data = b'{"event":"else","@account":[1,2]}'
    event, _ = read_record(data, account_told)
    assert isinstance(event, UnknownEvent)
    assert event.fields["@account"] == [1, 2]


@pytest.mark.parametrize("said", ["[]", "[1]", '[["x"],1,"s",0,null]', "[[1,2,3],1,2,3,4]", '{"a":1}', "null"])
def test_an_account_that_is_none_is_left_out(said: str) -> None:
    data = b'{"event":"llm.response","model_provider":"p","model":"m","duration":1.0,"success":true,"@account":%s}'
    event, _ = read_record(data % said.encode(), account_told)
    assert isinstance(event, LlmResponse)
    assert getattr(event, "account", None) is None


# -- keys ------------------------------------------------------------------------------------------------------------


def start(**said: Any) -> AgentStart:
    return AgentStart(agent="a", source="s", **said)


def test_the_events_of_a_tree_have_one_key() -> None:
    keys = Keys()
    assert [
        keys.key_of(event)
        for event in (
            start(invocation_id="i", root_invocation_id="r"),
            start(invocation_id="i"),
            start(invocation_id="j", parent_invocation_id="i"),
            start(invocation_id="k", parent_invocation_id="j"),
            start(invocation_id="x", parent_invocation_id="unknown"),
            start(invocation_id="y"),
            start(root_invocation_id="r"),
            DeploymentFailed(deploy_id="d", reason="e", root_invocation_id="r", source="s"),
            RecoveryCompleted(deploy_id="d", source="t"),
            DomainEvent(name="sold", data={}, source="s"),
            HeartbeatTick(),
        )
    ] == ["r", "r", "r", "r", "unknown", "y", "r", "d", "d", "@s", "@"]


def test_the_memory_of_runs_is_bounded() -> None:
    keys = Keys()
    for number in range(RUNS + 1):
        keys.key_of(start(invocation_id=f"i{number}", root_invocation_id="r"))
    assert keys.key_of(start(invocation_id="i0")) == "i0"
    assert keys.key_of(start(invocation_id="i2")) == "r"


# -- the line --------------------------------------------------------------------------------------------------------


def numbered(seq: int) -> AgentStart:
    return start(invocation_id=f"i{seq}", root_invocation_id="r", seq=seq)


def seqs(parcels: list[Parcel]) -> list[int | None]:
    return [read_record(parcel.data)[0].seq for parcel in parcels]


@given(order=strategies.permutations(range(20)), taken=strategies.lists(strategies.integers(1, 7), max_size=20))
def test_a_source_leaves_the_line_in_its_order(order: list[int], taken: list[int]) -> None:
    line = Line(1_000)
    found: list[int | None] = []
    for seq in order:
        line.put(numbered(seq))
        line.collect()
        if taken:
            batch = line.batch()
            sent = batch[: taken.pop()]
            left = batch[len(sent) :]
            if batch:
                line.gone(batch, left)
            found += seqs(sent)
    found += seqs(line.batch())
    assert found == list(range(20))
    assert line.is_through(20 - len(line.batch()))
    assert not line.is_through(21 - len(line.batch()))


def test_a_batch_that_somebody_else_has_taken_is_not_taken_twice() -> None:
    line = Line(1_000)
    for seq in range(BATCH + 5):
        line.put(numbered(seq))
    line.collect()
    line.collect()
    batch = line.batch()
    assert len(batch) == BATCH
    line.gone(batch)
    line.gone(batch)
    assert seqs(line.batch()) == list(range(BATCH, BATCH + 5))


def test_what_waits_behind_a_gap_leaves_in_the_end() -> None:
    line = Line(1_000)
    for seq in (0, 2, 3):
        line.put(numbered(seq))
    line.collect()
    assert (seqs(line.batch()), line.waiting, line.is_through(2)) == ([0], 3, False)
    line.drain()
    assert (seqs(line.batch()), line.waiting) == ([0, 2, 3], 3)
    line.put(numbered(1))
    line.collect()
    assert (line.duplicates, line.waiting) == (1, 3)


def test_over_the_bound_the_oldest_are_dropped_and_counted() -> None:
    line = Line(10)
    for seq in range(25):
        line.put(numbered(seq))
    assert (line.waiting, dict(line.dropped), line.given) == (10, {"queue_full": 15}, 25)
    line.close()
    line.put(numbered(25))
    line.collect()
    line.drain()
    assert seqs(line.batch()) == list(range(15, 25))
    line.drop("exit_timeout")
    assert (line.waiting, dict(line.dropped)) == (0, {"queue_full": 15, "closed": 1, "exit_timeout": 10})


# -- the disk --------------------------------------------------------------------------------------------------------

PARCELS = strategies.builds(
    Parcel,
    strategies.text(strategies.characters()),
    strategies.text(strategies.characters()),
    strategies.binary(max_size=300),
)


@given(parcel=PARCELS)
def test_a_parcel_comes_back_whole(parcel: Parcel) -> None:
    assert Parcel.unpack(parcel.pack()) == parcel


def outbox(directory: Path, source: str = "s") -> Outbox:
    return Outbox(directory, max_bytes=1 << 20, max_age=None, opening=lambda: (source, source.encode()))


def test_what_was_kept_comes_out_in_order_process_by_process_and_once(tmp_path: Path) -> None:
    kept = [Parcel(f"k{n}", "s", b"%d" % n) for n in range(100)]
    first = outbox(tmp_path)
    for start_at in range(0, 60, 7):
        first.keep(kept[start_at : min(start_at + 7, 60)])
    load = first.take(5, 1 << 20)
    assert load is not None
    assert (load.parcels, load.opening) == (kept[:5], ("s", b"s"))
    first.done(load)
    assert first.take(10, 1) is not None  # and its process ends before that is done
    first.close()
    second = outbox(tmp_path, "t")
    assert (second.adopt(), second.pending) == (55, 55)
    own = [Parcel("k", "t", b"own %d" % n) for n in range(3)]
    second.keep(own)
    found = []
    while (load := second.take(8, 1 << 20)) is not None:
        found.append((load.parcels, load.opening))
        second.done(load)
    assert [parcel for parcels, _ in found for parcel in parcels] == [*kept[5:60], *own]
    assert [opening for _, opening in found] == [("s", b"s")] * 7 + [("t", b"t")]
    assert (second.pending, second.dropped) == (0, {})
    second.close()


def test_what_is_no_parcel_is_passed_over(tmp_path: Path) -> None:
    strange = SegmentJournal(tmp_path)
    for _ in range(3):
        strange.append(b"x")
    strange.close()
    box = outbox(tmp_path)
    assert box.adopt() == 3
    box.keep([Parcel("k", "s", b"1")])
    load = box.take(10, 10)
    assert load is not None
    assert load.parcels == [Parcel("k", "s", b"1")]
    box.done(load)
    assert box.pending == 0


# -- wiring ----------------------------------------------------------------------------------------------------------


def nobody(tmp_path: Path, **options: Any) -> Feed:
    """A feed whose broker is not there."""
    settings = Settings(broker=f"unix://:secret@{tmp_path}/nobody.sock", spool_dir=str(tmp_path / "spool"), **options)
    return Feed(settings, lambda: Opening(source="s"))


def test_a_feed_without_a_broker_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="AGENTBUS_BROKER is unset"):
        Feed(Settings(), lambda: Opening(source="s"))


def test_a_broker_that_is_not_there_costs_no_event_and_shows_no_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    feed = nobody(tmp_path)
    feed.start()
    for seq in range(700):
        feed(numbered(seq))
    assert wait_until(lambda: feed.health()["failures"] != {})
    threads = [thread.name for thread in threading.enumerate()]
    assert "otel-agentbus-broker" in threads
    assert not feed.close(time.monotonic())
    told = feed.health()
    assert told["waiting"] == 0
    assert told["kept"] + sum(told["dropped"].values()) == 700
    assert "secret" not in caplog.text + str(told)
    assert wait_until(lambda: "otel-agentbus-broker" not in [thread.name for thread in threading.enumerate()])


def test_where_no_thread_runs_the_end_does_its_work(tmp_path: Path) -> None:
    feed = nobody(tmp_path)
    for seq in range(700):
        feed(numbered(seq))
    assert not feed.close(time.monotonic() + 5)
    assert (feed.health()["kept"], feed.health()["dropped"]) == (700, {})
    assert feed.close(time.monotonic())


def test_a_broker_that_stays_away_is_not_waited_for_with_every_flush(tmp_path: Path) -> None:
    feed = nobody(tmp_path)
    feed.start()
    feed(numbered(0))
    assert wait_until(lambda: feed.health()["failures"] != {})
    for seq in range(1, 4):
        feed(numbered(seq))
        assert not feed.flush(time.monotonic() + 3_600)
    assert feed.health()["waiting"] == 4
    assert not feed.close(time.monotonic() + 5)


def test_the_events_that_wait_are_no_spool_of_spans(tmp_path: Path) -> None:
    feed = nobody(tmp_path)
    feed(numbered(0))
    assert not feed.close(time.monotonic() + 5)
    assert feed.health()["kept"] == 1
    assert spools(tmp_path / "spool") == []


def test_a_description_that_fails_later_is_no_reason_to_lose_anything(tmp_path: Path) -> None:
    asked = []

    def describe() -> Opening:
        asked.append(1)
        if len(asked) > 1:
            raise RuntimeError("too late")
        return Opening(source="s")

    settings = Settings(broker=f"unix://{tmp_path}/nobody.sock", spool_dir=str(tmp_path / "spool"))
    feed = Feed(settings, describe)
    for seq in range(10):
        feed(numbered(seq))
    assert not feed.close(time.monotonic() + 5)
    assert feed.health()["kept"] == 10
