"""What is written down is read again, equal and in order; what cannot be kept is counted and never raised."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource

from otel_agentbus import contract, events
from otel_agentbus.errors import UnreadableEvent
from otel_agentbus.events import KINDS, REPLAYED, AgentStart, DomainEvent, Event, ToolCallStart, UnknownEvent
from otel_agentbus.journal import MemoryJournal
from otel_agentbus.recording import Opening, Recorder, key_hash, read_events, read_record, record_of, sources
from otel_agentbus.testing import wait_until
from tests.journals import Block, writer
from tests.test_contract import events_of

ANY_EVENT = st.one_of(*(events_of(cls) for cls in (*KINDS.values(), DomainEvent)))


def tools(*names: str, start_ns: int = 1, step_ns: int = 1) -> list[Event]:
    return [ToolCallStart(tool=name, time_ns=start_ns + step_ns * n, seq=n) for n, name in enumerate(names)]


def record(directory: Path, *told: Event, source: str = "s") -> Recorder:
    recorder = Recorder(writer(directory, Opening(source=source)), "event")
    for event in told:
        recorder(event)
    return recorder


class Broken:
    """A journal on a disk that is full."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def append(self, data: bytes, items: int = 1, key: str = "") -> str:
        raise self.error

    def append_many(self, datas: Sequence[bytes], keys: Sequence[str] = ()) -> str:
        raise self.error

    def read(self, after: str | None = None) -> Iterator[Any]:
        return iter(())

    def ack(self, position: str) -> None:
        raise self.error

    def sync(self) -> None:
        raise self.error

    def close(self) -> None:
        raise self.error


# -- records -----------------------------------------------------------------------------------------------------------


@given(st.lists(ANY_EVENT, max_size=8))
def test_what_is_written_is_read_again_equal_and_in_order(told: list[Event]) -> None:
    journal = MemoryJournal()
    recorder = Recorder(journal, "event")
    for event in told:
        recorder(event)
    read = [read_record(found.data)[0] for found in journal.read()]
    assert read == [contract.read(contract.write(event)) for event in told]
    assert recorder.health() == {"written": len(told), "waiting": 0, "failed": {}}


@given(ANY_EVENT, st.sampled_from([None, REPLAYED, Block()]))
def test_a_record_says_whether_a_block_has_emitted_the_event_and_nothing_else_changes(
    event: Event, origin: object
) -> None:
    event.origin = origin
    read, by_block = read_record(record_of(event))
    assert (read, by_block) == (contract.read(contract.write(event)), isinstance(origin, Block))


def test_an_event_that_is_read_says_that_it_is_replayed() -> None:
    event = AgentStart(agent="planner")
    assert not event.replayed
    assert read_record(record_of(event))[0].replayed


def test_an_event_of_a_later_version_is_read_with_its_fields() -> None:
    event, _ = read_record(b'{"event":"agent.paused","invocation_id":"i","why":"lunch"}')
    assert event == UnknownEvent(name="agent.paused", invocation_id="i", fields={"why": "lunch"})
    assert event.replayed


def test_a_record_that_is_no_event_says_so() -> None:
    with pytest.raises(UnreadableEvent):
        read_record(b'{"opening":{}}')


# -- openings ----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
ATTRIBUTE = st.one_of(
    TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(max_size=4)
)


@given(
    st.builds(
        Opening,
        source=TEXT,
        resource=st.dictionaries(TEXT, ATTRIBUTE | st.lists(ATTRIBUTE, max_size=3).map(tuple), max_size=4),
        schema_url=TEXT,
        limits=st.dictionaries(TEXT, st.none() | st.integers(0, 1000), max_size=3),
        id_key_hash=st.binary(max_size=3).map(key_hash),
    )
)
def test_an_opening_is_read_as_it_was_written_with_the_attributes_in_their_order(opening: Opening) -> None:
    read = Opening.read(opening.write())
    assert read == opening
    assert read is not None
    assert list(read.resource) == list(opening.resource)
    assert [type(value) for value in read.resource.values()] == [type(v) for v in opening.resource.values()]


def test_an_opening_takes_the_attributes_of_a_resource_as_they_are() -> None:
    resource = Resource({"service.name": "x", "process.command_args": ["a", "b"]}, "https://schema")
    opening = Opening(source="s", resource=resource.attributes, schema_url=resource.schema_url)
    read = Opening.read(opening.write())
    assert read is not None
    assert Resource(dict(read.resource), read.schema_url) == resource


def test_an_opening_says_which_process_it_is_and_shows_no_key() -> None:
    opening = Opening(source="s", id_key_hash=key_hash(b"secret"))
    assert (opening.pid, len(opening.id_key_hash)) == (os.getpid(), 8)
    assert key_hash(b"secret") != key_hash(b"other")
    assert key_hash(b"") == ""
    assert b"secret" not in opening.write()


@pytest.mark.parametrize("data", [None, b"", b"{}", b'{"opening":', b'{"opening":[]}', b'{"opening":{"pid":1}}'])
def test_what_is_no_opening_is_none(data: bytes | None) -> None:
    assert Opening.read(data) is None


def test_what_a_later_version_adds_to_an_opening_is_left_out() -> None:
    said = json.loads(Opening(source="s").write())
    said["opening"]["mood"] = "good"
    read = Opening.read(json.dumps(said, separators=(",", ":")).encode())
    assert read is not None
    assert read.source == "s"


# -- the recorder ------------------------------------------------------------------------------------------------------


def test_in_batches_events_wait_until_they_are_flushed() -> None:
    journal = MemoryJournal()
    recorder = Recorder(journal, "batch")
    for event in tools("a", "b"):
        recorder(event)
    assert (list(journal.read()), recorder.waiting, recorder.position) == ([], 2, None)
    assert recorder.flush()
    assert [read_record(found.data)[0] for found in journal.read()] == tools("a", "b")
    assert recorder.health() == {"written": 2, "waiting": 0, "failed": {}}


def test_more_events_than_may_wait_are_counted() -> None:
    recorder = Recorder(MemoryJournal(), "batch", waiting=2)
    for event in tools("a", "b", "c", "d"):
        recorder(event)
    assert recorder.health() == {"written": 0, "waiting": 2, "failed": {"memory full": 2}}
    assert not Recorder(Broken(OSError(errno.EIO, "broken")), "batch").waiting


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left"), "disk full"),
        (PermissionError(errno.EACCES, "Not you"), "not allowed"),
        (OSError(errno.EIO, "?"), "input/output error"),
        (OSError("what"), "input/output error"),
        (RuntimeError("a journal of somebody"), "error"),
    ],
)
def test_a_journal_that_fails_is_counted_by_reason_and_said_once(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(Broken(error), "event")
    with caplog.at_level(logging.WARNING):
        for event in tools("a", "b", "c"):
            recorder(event)
        recorder.mark("7")
        recorder.finish()
    assert recorder.health() == {"written": 0, "waiting": 0, "failed": {reason: 3}}
    assert len(caplog.records) == 1
    assert reason in caplog.text


def test_a_batch_that_fails_says_so_and_the_next_one_is_written() -> None:
    journal = MemoryJournal()
    broken = Broken(OSError(errno.ENOSPC, "full"))
    recorder = Recorder(broken, "batch")
    for event in tools("a", "b"):
        recorder(event)
    assert not recorder.flush()
    recorder.journal = journal
    recorder(tools("c")[0])
    assert recorder.flush()
    assert recorder.health() == {"written": 1, "waiting": 0, "failed": {"disk full": 2}}


def test_many_threads_write_everything_once(tmp_path: Path) -> None:
    recorder = record(tmp_path)
    told = [[ToolCallStart(tool=f"{thread}-{n}", time_ns=n) for n in range(50)] for thread in range(4)]

    def tell(mine: list[ToolCallStart]) -> None:
        for event in mine:
            recorder(event)

    threads = [threading.Thread(target=tell, args=(mine,)) for mine in told]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    read = [event.tool for event in read_events(tmp_path) if isinstance(event, ToolCallStart)]
    assert recorder.health() == {"written": 200, "waiting": 0, "failed": {}}
    assert sorted(read) == sorted(f"{number}-{n}" for number in range(4) for n in range(50))
    for number in range(4):
        assert [name for name in read if name.startswith(f"{number}-")] == [f"{number}-{n}" for n in range(50)]


@pytest.mark.parametrize("sync", ["event", "batch"])
def test_what_comes_after_the_end_is_counted_and_makes_no_new_writer(tmp_path: Path, sync: Any) -> None:
    recorder = Recorder(writer(tmp_path, Opening(source="s")), sync)
    recorder(tools("a")[0])
    recorder.finish()
    recorder(tools("b")[0])
    recorder.flush()
    assert recorder.health() == {"written": 1, "waiting": 0, "failed": {"closed": 1}}
    assert [[getattr(event, "tool", "") for event in source.events()] for source in sources(tmp_path)] == [["a"]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("sync", ["event", "batch"])
def test_the_child_of_a_fork_has_its_own_opening_and_nothing_of_the_parents(tmp_path: Path, sync: Any) -> None:
    recorder = Recorder(writer(tmp_path, lambda: Opening(source=f"of {os.getpid()}")), sync)
    recorder(tools("parent")[0])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            recorder(tools("child")[0])
            recorder.flush()
            recorder.close()
            code = 0 if recorder.written == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    recorder.close()
    told = {source.source: list(source.events()) for source in sources(tmp_path)}
    assert told == {f"of {os.getpid()}": tools("parent"), f"of {child}": tools("child")}


# -- reading -----------------------------------------------------------------------------------------------------------


def test_there_are_no_events_where_there_is_no_journal(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none")) == []
    assert sources(tmp_path / "none") == []


@given(times=st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=3))
def test_the_events_of_all_writers_come_by_time_and_each_writers_in_its_own_order(
    tmp_path_factory: pytest.TempPathFactory, times: list[list[int]]
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    for number, of_one in enumerate(times):
        told = [ToolCallStart(tool=str(number), time_ns=at + 1, seq=seq) for seq, at in enumerate(of_one)]
        record(directory, *told, source=str(number)).close()
    read = [event for event in read_events(directory) if isinstance(event, ToolCallStart)]
    for number, of_one in enumerate(times):
        assert [event.seq for event in read if event.tool == str(number)] == list(range(len(of_one)))
    if all(sorted(of_one) == of_one for of_one in times):
        assert [event.time_ns for event in read] == sorted(at + 1 for of_one in times for at in of_one)
    assert len(read) == sum(map(len, times))


def test_what_happened_before_is_left_out_on_request(tmp_path: Path) -> None:
    record(tmp_path, *tools("a", "b", "c", start_ns=10, step_ns=10)).close()
    assert [event.time_ns for event in read_events(tmp_path, since_ns=20)] == [20, 30]


def test_records_that_are_no_events_are_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = record(tmp_path, *tools("a"))
    recorder.journal.append(b"not JSON")
    recorder.journal.append(b'{"event":"tool.end"}')
    recorder(tools("b")[0])
    recorder.close()
    with caplog.at_level(logging.WARNING):
        assert list(read_events(tmp_path)) == [*tools("a"), *tools("b")]
    assert [line.getMessage() for line in caplog.records] == [
        f"2 records of the journal {tmp_path} cannot be read and were left out"
    ]


def test_a_journal_that_is_followed_tells_what_is_written_later_and_by_new_writers(tmp_path: Path) -> None:
    first = record(tmp_path, *tools("a"), source="first")
    stop, seen = threading.Event(), list[str]()

    def follow() -> None:
        seen.extend(str(getattr(event, "tool", "")) for event in read_events(tmp_path, follow=True, stop=stop))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        assert wait_until(lambda: seen == ["a"])
        first(tools("b")[0])
        assert wait_until(lambda: seen == ["a", "b"])
        second = record(tmp_path, *tools("c"), source="second")
        assert wait_until(lambda: seen == ["a", "b", "c"])
        first.close()
        second(tools("d")[0])
        assert wait_until(lambda: seen == ["a", "b", "c", "d"])
    finally:
        stop.set()
    thread.join(5.0)
    assert not thread.is_alive()
    second.close()
    assert seen == ["a", "b", "c", "d"]


def test_a_source_says_what_became_of_its_process(tmp_path: Path) -> None:
    alive = record(tmp_path, *tools("a"), source="alive")
    record(tmp_path, *tools("a"), source="dead").close()
    record(tmp_path, *tools("a"), source="finished").finish()
    marked = record(tmp_path, *tools("a", "b"), source="marked")
    marked.mark()
    last = marked.position
    marked(tools("c")[0])
    marked.close()
    found = {source.source: source for source in sources(tmp_path)}
    assert {name: (source.alive, source.finished) for name, source in found.items()} == {
        "alive": (True, False),
        "dead": (False, False),
        "finished": (False, True),
        "marked": (False, False),
    }
    assert found["marked"].marked == last
    assert found["dead"].marked is None
    assert len(list(found["marked"].events())) == 3
    assert [getattr(event, "tool", None) for event in found["marked"].events(after=last)] == ["c"]
    alive.close()


def test_a_name_of_the_contract_is_not_taken_by_the_mark_of_a_block() -> None:
    assert "@block" not in {name for cls in events.KINDS.values() for name in cls.__dataclass_fields__}


def test_an_opening_says_what_decides_how_spans_are_judged() -> None:
    opening = Opening(source="s", grace=0.5, max_open_spans=7)
    assert Opening.read(opening.write()) == opening
    old = b'{"opening":{"source":"s"}}'
    found = Opening.read(old)
    assert found is not None
    assert (found.grace, found.max_open_spans) == (-1.0, 0)
