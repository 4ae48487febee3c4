"""The relay's trees: whatever is cut, mixed, put away, repeated or killed, the spans are those of the live process."""

from __future__ import annotations

import random
import tracemalloc
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    Error,
    Event,
    LlmRequest,
    LlmResponse,
    RecoveryCompleted,
    ToolCall,
    ToolCallStart,
)
from otel_agentbus.journal.redis import Entry
from otel_agentbus.relay import trees
from otel_agentbus.telemetry.ledger import Ledger

from .bridging import Emitter, at, bridged
from .relaying import Worker, encoded, stream_of
from .test_permutations import MODEL, Program

RUN: dict[str, Any] = {"invocation_id": "r", "root_invocation_id": "r", "agent": "a"}
DAY_S = 86_400.0


class _Block:
    """What a block leaves on the events that it emits."""

    ended = False


class Troupe(Program):
    """A program in which things go wrong: ends and starts of calls are lost, runs never end, some tell without ids."""

    def __init__(self, seed: int, sources: int) -> None:
        super().__init__(seed, sources)
        self.deploy()
        for emit in self.emitters:
            self.without_ids(emit)

    @property
    def told(self) -> list[list[Event]]:
        """Each source's events, but for what is lost of them."""
        dice = random.Random(self.clock)
        return [[event for event in emitter.events if self.keep(event, dice)] for emitter in self.emitters]

    def keep(self, event: Event, dice: random.Random) -> bool:
        if dice.random() < 0.3 and isinstance(event, AgentStart | ToolCallStart | LlmRequest):
            event.origin = _Block()  # only its own end, or the end of all time, ends it
        if event.invocation_id is None:
            return True
        if isinstance(event, AgentEnd):
            return dice.random() < 0.95
        return not isinstance(event, ToolCall | LlmResponse | ToolCallStart | LlmRequest) or dice.random() < 0.95

    def deploy(self) -> None:
        emit = self.random.choice(self.emitters)
        for _ in range(self.random.randint(0, 2)):
            name = self.fresh("deploy")
            emit(DeploymentStarted, self.tick(), deploy_id=name)
            if self.random.random() < 0.5:
                emit(DeploymentCompleted, self.tick(), deploy_id=name, commit_sha="c")
            elif self.random.random() < 0.8:
                emit(DeploymentFailed, self.tick(), deploy_id=name, reason="no")
                if self.random.random() < 0.7:
                    emit(RecoveryCompleted, self.tick(), deploy_id=name)

    def without_ids(self, emit: Emitter) -> None:
        for _ in range(self.random.randint(0, 2)):
            emit(AgentStart, self.tick(), agent="nobody")
            emit(LlmRequest, self.tick(), **MODEL, messages_count=1)
            if self.random.random() < 0.7:
                emit(LlmResponse, self.tick(), **MODEL, duration=0.001, success=True)
            emit(AgentEnd, self.tick(), agent="nobody")
            emit(Error, self.tick(), component="c", message="alone")


def mixed(sources: list[list[Event]], dice: random.Random) -> list[Event]:
    """All events, each source's in its order."""
    waiting = [list(reversed(events)) for events in sources if events]
    found = []
    while waiting:
        events = dice.choice(waiting)
        found += [events.pop() for _ in range(min(len(events), dice.randint(1, 4)))]
        waiting = [events for events in waiting if events]
    return found


def streamed(events: list[Event], dice: random.Random, again: float) -> list[Entry]:
    """A stream of them, in no time, in which whole pieces of a source come again now and then."""
    ms, found = 1_000_000, []
    mine: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in stream_of(events):
        ms += dice.randint(0, 10)
        mine[entry.source].append(entry)
        found.append(entry)
        if dice.random() < again:
            found += mine[entry.source][-dice.randint(1, 20) :]
    return [entry._replace(id=f"{1_000_000 + 3 * number}-0") for number, entry in enumerate(found)]


def wanted(sources: list[list[Event]]) -> dict[bytes, bytes]:
    """What a live process makes of the events, when every grace has passed before its end."""
    live = bridged().feed(event for events in sources for event in events)
    live.bridge.flush()  # what was lost is not waited for
    live.bridge.tick(at(DAY_S))
    return encoded(live.closed())


def work(worker: Worker, dice: random.Random) -> None:
    """Read to the end, with every kind of accident on the way."""
    while worker.shelf.position < len(worker.stream):
        worker.read(dice.randint(1, 40))
        match dice.choice(["ack", "ack", "ack", "ack and put away", "killed", "killed after it sent"]):
            case "killed":
                worker.begin()
            case "killed after it sent":
                worker.send()
                worker.begin()
            case what:
                worker.send()
                worker.ack()
                if what != "ack":
                    worker.trees.put_away(dice.choice([0, 1, 5]))
    for seconds in (60.0, DAY_S + 60):
        if dice.random() < 0.5:
            worker.begin()
        worker.later(seconds)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), sources=st.sampled_from([1, 3]), accidents=st.integers(0, 10_000))
def test_the_spans_are_those_of_the_live_process_whatever_happens_on_the_way(
    seed: int, sources: int, accidents: int
) -> None:
    dice = random.Random(accidents)
    told = Troupe(seed, sources).told
    worker = Worker(streamed(mixed(told, dice), dice, again=0.05))
    work(worker, dice)
    assert worker.spans() == wanted(told)
    assert (worker.shelf.trees, worker.shelf.heard, len(worker.trees), worker.trees.weight) == ({}, {}, 0, 0)


def told_by(*emitters: Emitter, delay_ms: int = 20) -> Worker:
    """A worker before a stream of what these have emitted, by the time of the events."""
    events = sorted((event for emitter in emitters for event in emitter.events), key=lambda event: event.time_ns or 0)
    return Worker(stream_of(events, delay_ms))


def names(worker: Worker) -> list[tuple[str, str]]:
    """The names and outcomes of the spans that were sent, in that order."""
    return [(span.name, str((span.attributes or {}).get("agentbus.outcome"))) for span in worker.sent]


def test_a_paused_run_is_whole_and_blocks_nobody() -> None:
    emit, other = Emitter("s"), Emitter("o")
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    emit(LlmRequest, 1.1, **RUN, **MODEL, messages_count=1, call_id="1")
    emit(LlmResponse, 1.2, **RUN, **MODEL, call_id="1", duration=0.1, success=True)
    for number in range(100):
        run = {"invocation_id": f"o{number}", "root_invocation_id": f"o{number}", "agent": "o"}
        other(AgentStart, 2 + number, **run)
        other(AgentEnd, 2.5 + number, **run)
    emit(ToolCall, 4 * 3600, **RUN, tool="t", tool_call_id="x", duration=4 * 3600 - 1.0, success=True)
    emit(AgentEnd, 4 * 3600 + 1, **RUN)
    worker = told_by(emit, other)
    while worker.turn(7):
        worker.trees.put_away(0)
        worker.begin()
    assert worker.spans() == wanted([emit.events, other.events])
    assert names(worker)[-2:] == [("execute_tool t", "ok"), ("invoke_agent a", "ok")]
    assert len(worker.sent) == 103  # each once: what was loaded again was not sent again
    assert (worker.counts["late"], worker.counts["duplicates"], worker.shelf.trees) == (0, 0, {})


def test_a_run_of_which_nothing_is_heard_is_interrupted_when_its_time_is_over() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    worker = told_by(emit).all()
    worker.later(DAY_S - 1)
    assert names(worker) == []
    worker.later(DAY_S + 1)
    assert names(worker) == [("execute_tool t", "interrupted"), ("invoke_agent a", "interrupted")]
    assert [span.end_time for span in worker.sent] == [at(1), at(1)]  # when it was last heard of, never now
    assert (worker.counts["interrupted"], worker.counts["expired"]) == (2, 1)
    assert (worker.shelf.over, worker.shelf.trees) == ({"r"}, {})


@pytest.mark.parametrize("looks", [True, False])
def test_what_comes_after_its_time_is_late_whether_somebody_looked_before_or_not(looks: bool) -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    emit(ToolCall, DAY_S + 2, **RUN, tool="t", tool_call_id="x", duration=1.0, success=True)
    emit(AgentEnd, DAY_S + 3, **RUN)
    worker = told_by(emit)
    worker.turn(2)
    if looks:
        worker.later(DAY_S + 0.5)
        worker.begin()
    worker.all()
    assert names(worker) == [("execute_tool t", "interrupted"), ("invoke_agent a", "interrupted")]
    assert (worker.counts["late"], worker.counts["expired"]) == (2, 1)


def test_a_run_that_begins_in_a_tree_that_was_over_is_whole() -> None:
    """A job that a run has queued starts when the run has long ended."""
    web, job = Emitter("web"), Emitter("job")
    web(AgentStart, 0, **RUN)
    web(AgentEnd, 1, **RUN)
    child = {"invocation_id": "j", "parent_invocation_id": "r", "root_invocation_id": "r", "agent": "job"}
    job(AgentStart, 100, **child)
    job(LlmResponse, 101, **child, **MODEL, call_id="only its end is told", duration=0.5, success=True)
    job(AgentEnd, 102, **child)
    job(AgentEnd, 200, **child)
    for most in (1, 100):
        worker = told_by(web, job).all(most)
        assert worker.spans() == wanted([web.events, job.events])
        assert [name for name, _ in names(worker)] == ["invoke_agent a", "invoke_agent job", "chat m"]
        assert worker.counts["late"] == 1


def test_producers_that_tell_of_ends_only_are_never_late() -> None:
    emit = Emitter()
    for number in range(3):
        emit(LlmResponse, 100 * number, **RUN, **MODEL, call_id=str(number), duration=0.5, success=True)
    worker = told_by(emit).all(1)
    assert worker.spans() == wanted([emit.events])
    assert len(worker.sent) == 3


def test_an_end_that_is_told_again_makes_no_second_span() -> None:
    emit = Emitter()
    emit(LlmRequest, 0, **RUN, **MODEL, messages_count=1, call_id="1")
    for seconds in (1, 2, 3):
        emit(LlmResponse, seconds, **RUN, **MODEL, call_id="1", duration=1.0, success=True)
    worker = told_by(emit).all(1)
    assert worker.spans() == wanted([emit.events])
    assert worker.counts["late"] == 2


def test_a_failed_deployment_waits_for_its_recovery() -> None:
    emit = Emitter()
    emit(DeploymentStarted, 0, deploy_id="d")
    emit(DeploymentFailed, 1, deploy_id="d", reason="no")
    emit(RecoveryCompleted, 3600, deploy_id="d")
    emit(RecoveryCompleted, 3601, deploy_id="d")
    emit(DeploymentCompleted, 3602, deploy_id="d", commit_sha="c")
    worker = told_by(emit)
    while worker.turn(1):
        worker.begin()
    assert worker.spans() == wanted([emit.events])
    assert [span.name for span in worker.sent] == ["deployment", "recovery"]
    assert worker.counts["late"] == 2


def test_grace_is_judged_by_the_time_of_the_stream_where_nothing_comes() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    emit(AgentEnd, 2, **RUN)
    worker = told_by(emit).all()
    assert names(worker) == [("invoke_agent a", "ok"), ("execute_tool t", "cancelled")]
    assert [span.end_time for span in worker.sent] == [at(2), at(2)]


def test_what_waits_for_its_grace_is_found_again_by_whoever_takes_over() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    emit(AgentEnd, 2, **RUN)
    worker = told_by(emit)
    worker.turn()
    worker.begin()
    worker.later(60)
    assert names(worker) == [("invoke_agent a", "ok"), ("execute_tool t", "cancelled")]


def test_a_feed_that_was_held_up_changes_nothing() -> None:
    """The end of the tool came into the stream seconds later than it happened; a live process had no doubt of it."""
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    emit(AgentEnd, 2, **RUN)
    emit(ToolCall, 2.5, **RUN, tool="t", tool_call_id="x", duration=1.5, success=True)
    stream = stream_of(emit.events)
    stream[-1] = stream[-1]._replace(id=f"{stream[-1].ms + 4_000}-0")
    worker = Worker(stream).all(1)
    assert worker.spans() == wanted([emit.events])
    assert ("execute_tool t", "ok") in names(worker)


def test_what_is_told_twice_by_the_feed_is_a_duplicate_and_what_cannot_be_read_is_counted() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(AgentEnd, 1, **RUN)
    stream = stream_of([*emit.events, *emit.events])
    stream.insert(1, stream[0]._replace(data=b"no event"))
    stream.insert(1, stream[0]._replace(data=b'{"event":"new.kind","source":"s","seq":0}'))
    worker = Worker(stream).all(1)
    assert len(worker.sent) == 1
    assert dict(worker.counts) == {"events": 6, "trees": 1, "duplicates": 3, "unreadable": 1}


def test_memory_has_so_many_open_spans_at_the_most() -> None:
    emit = Emitter()
    for number in range(1000):
        emit(AgentStart, number, invocation_id=f"r{number}", root_invocation_id=f"r{number}", agent="a")
    worker = told_by(emit)
    while worker.turn(100):
        worker.trees.put_away(50)
        assert (len(worker.trees), worker.trees.weight) == (50, 50)
    assert len(worker.shelf.trees) == 1000
    for number in range(1000):
        emit(AgentEnd, 1000 + number, invocation_id=f"r{number}", root_invocation_id=f"r{number}", agent="a")
    worker.stream = stream_of(emit.events)
    while worker.turn(100):
        worker.trees.put_away(50)
    assert worker.spans() == wanted([emit.events])
    assert (len(worker.trees), worker.trees.weight, worker.shelf.trees) == (0, 0, {})


def test_the_account_that_the_emitter_has_made_is_the_spans() -> None:
    ledger, emit = Ledger(None), Emitter()
    emit(AgentStart, 0, **RUN)
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="1")
    emit(LlmResponse, 2, **RUN, **MODEL, call_id="1", duration=1.0, success=True, input_tokens=7, cost_usd=0.25)
    emit(AgentEnd, 3, **RUN, cost_usd=0.5)
    entered = [ledger.enter(event) for event in emit.events]
    worker = Worker(stream_of(entered))
    while worker.turn(1):
        worker.begin()
    assert worker.spans() == wanted([entered])
    assert {(span.attributes or {}).get("agentbus.cost.status") for span in worker.sent} == {None, "reported"}


def test_what_the_time_of_the_stream_has_judged_stays_judged_when_the_tree_is_loaded_again() -> None:
    """An answer came so late into the stream that its call was taken to be cancelled; its run adds nothing of it up."""
    emit = Emitter()
    child = {"invocation_id": "s", "parent_invocation_id": "r", "root_invocation_id": "r", "agent": "b"}
    emit(AgentStart, 0, **RUN)
    emit(AgentStart, 1, **child)
    emit(LlmRequest, 1.5, **child, **MODEL, messages_count=1, call_id="1")
    emit(AgentEnd, 2, **child)
    emit(LlmResponse, 2.5, **child, **MODEL, call_id="1", duration=1.0, success=True, input_tokens=7)
    emit(AgentEnd, 3, **RUN)
    stream = stream_of(emit.events)
    stream[4:] = [entry._replace(id=f"{entry.ms + 20_000}-0") for entry in stream[4:]]
    whole, loaded = Worker(stream).all(), Worker(stream)
    while loaded.turn(1):
        loaded.begin()
    assert ("chat m", "cancelled") in names(whole)
    assert loaded.spans() == whole.spans()


def test_a_tree_that_has_very_many_events_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trees, "LONG", 7)
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    for number in range(10):
        emit(ToolCallStart, number, tool="t", tool_call_id=str(number), invocation_id="r", root_invocation_id="r")
    worker = Worker(stream_of(emit.events))
    while worker.turn(2):
        worker.begin()  # each has all of it again
    said = [record.getMessage() for record in caplog.records]
    assert said == ["The tree r has 7 events by now, which are all kept until it is over"]


def test_sources_that_come_and_go_cost_a_bounded_memory_however_much_each_has_told() -> None:
    worker = Worker([])
    clock = iter(range(1_000_000))

    def in_use_after(sources: range) -> int:
        """The bytes that are in use when these sources have told of many runs."""
        for source in sources:
            emit = Emitter(f"s{source}")
            for run in range(500):
                ids: dict[str, Any] = {"invocation_id": f"{source}/{run}", "root_invocation_id": f"{source}/{run}"}
                emit(AgentStart, next(clock), agent="a", **ids)
                emit(AgentEnd, next(clock), agent="a", **ids)
            worker.stream, worker.at = stream_of(emit.events), 0
            worker.shelf.position = 0
            worker.turn(1_000)
            assert len(worker.sent) == 500
            worker.sent.clear()
            worker.shelf.over.clear()
        return tracemalloc.get_traced_memory()[0]

    in_use_after(range(3))
    tracemalloc.start()
    try:
        before = in_use_after(range(3, 4))
        after = in_use_after(range(4, 16))
    finally:
        tracemalloc.stop()
    assert (after - before) / 12 < 450_000  # most of it in what all sources share, which is bounded
