"""Journals with very many records and writers: records written together, segments read in parts, logs found quickly."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_agentbus.events import Event, ToolCall, ToolCallStart
from otel_agentbus.journal import Journal, JournalCounts, MemoryJournal, Record, SegmentJournal, logs, places, writers
from otel_agentbus.recording import Opening, Recorder, read_record, sources
from tests.journals import writer


def told(number: int, text: str = "") -> list[Event]:
    return [ToolCallStart(tool=f"{n}{text}", time_ns=n + 1, source="s", seq=n) for n in range(number)]


def tools(journal: Journal) -> list[Any]:
    return [read_record(record.data)[0].tool for record in journal.read()]  # type: ignore[attr-defined]


# -- together ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MemoryJournal, SegmentJournal])
def test_records_written_together_are_read_as_those_written_one_by_one(kind: Any, tmp_path: Path) -> None:
    journal: Journal = kind() if kind is MemoryJournal else kind(tmp_path)
    first = journal.append(b"first", 3)
    last = journal.append_many([b"a", b"", b"ccc"])
    after = journal.append(b"after", 2)
    read = list(journal.read())
    assert [(record.data, record.items) for record in read] == [
        (b"first", 3),
        (b"a", 1),
        (b"", 1),
        (b"ccc", 1),
        (b"after", 2),
    ]
    positions = [record.position for record in read]
    assert positions == sorted(positions)
    assert (positions[0], positions[3], positions[4]) == (first, last, after)
    journal.ack(positions[1])
    assert [record.data for record in journal.read()] == [b"", b"ccc", b"after"]
    assert journal.pending == 4  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no records"):
        journal.append_many([])


@given(st.lists(st.lists(st.binary(max_size=200), min_size=1, max_size=12), max_size=12), st.integers(200, 2000))
def test_however_they_are_written_all_are_there_in_order_with_their_openings(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[bytes]], segment_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    journal = SegmentJournal(directory, segment_bytes=segment_bytes, opening=lambda: b"opening")
    for part in parts:
        journal.append_many(part)
    expected = [data for part in parts for data in part]
    assert [record.data for record in journal.read()] == expected
    assert journal.pending == len(expected)
    journal.close()
    assert [record.data for log in writers(directory) for record in log.read()] == expected
    assert [log.opening for log in writers(directory)] == ([b"opening"] if expected else [])


@pytest.mark.parametrize("taken", [0, 1, 40, 100])
def test_where_the_disk_takes_a_part_of_them_nothing_of_any_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    journal = SegmentJournal(tmp_path)
    journal.append(b"before")
    size = next(tmp_path.glob("*.seg")).stat().st_size
    write = os.pwrite
    full = [True]

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        if not full[0]:
            return write(descriptor, content, offset)
        full[0] = False
        return write(descriptor, content[:taken], offset)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("otel_agentbus.journal.active.pwrite", pwrite)
    monkeypatch.setattr("otel_agentbus.journal.active.os.pwrite", refuse)
    with pytest.raises(OSError, match="full"):
        journal.append_many([b"x" * 30, b"y" * 30, b"z" * 30])
    assert next(tmp_path.glob("*.seg")).stat().st_size == size
    monkeypatch.undo()
    journal.append_many([b"after", b"all"])
    assert [record.data for record in journal.read()] == [b"before", b"after", b"all"]
    assert (journal.counts, journal.pending) == (JournalCounts(), 3)


def test_together_they_are_one_write_and_no_more_than_the_journal_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SegmentJournal(tmp_path, max_bytes=4000, segment_bytes=1000)
    journal.append(b"before")
    writes: list[int] = []
    write = os.pwrite

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        writes.append(len(content))
        return write(descriptor, content, offset)

    monkeypatch.setattr("otel_agentbus.journal.active.pwrite", pwrite)
    journal.append_many([b"x" * 100] * 5)
    assert len(writes) == 1
    with pytest.raises(OSError, match="longer than the journal") as too_long:
        journal.append_many([b"x" * 1000] * 5)
    assert too_long.value.errno == errno.EFBIG
    assert [len(record.data) for record in journal.read()] == [6, 100, 100, 100, 100, 100]


# -- the Recorder's batches --------------------------------------------------------------------------------------------


def test_a_flush_writes_all_that_waits_in_few_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = writer(tmp_path, Opening(source="s"))
    recorder = Recorder(journal, "batch")
    calls: list[int] = []
    together = journal.append_many

    def append_many(datas: Any) -> str:
        calls.append(len(datas))
        return together(datas)

    monkeypatch.setattr(journal, "append_many", append_many)
    for event in told(1500):
        recorder(event)
    assert recorder.flush()
    assert recorder.health() == {"written": 1500, "waiting": 0, "failed": {}}
    assert tools(journal) == [str(n) for n in range(1500)]
    assert (len(calls), sum(calls)) == (3, 1500)
    assert recorder.position == list(journal.read())[-1].position


def test_an_event_that_no_journal_can_take_costs_none_of_the_others(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path, max_bytes=1 << 16)
    recorder = Recorder(journal, "batch")
    events = told(5)
    events[2] = ToolCall(tool="big", duration=1.0, success=True, result="x" * (1 << 17), source="s", seq=2)
    for event in events:
        recorder(event)
    assert not recorder.flush()
    assert tools(journal) == ["0", "1", "3", "4"]
    assert recorder.health() == {"written": 4, "waiting": 0, "failed": {"disk full": 1}}


def test_an_interrupt_in_a_flush_loses_nothing_of_what_it_had_taken() -> None:
    class Interrupted(MemoryJournal):
        times = 1

        def append_many(self, datas: Any, keys: Any = ()) -> str:
            if self.times:
                self.times -= 1
                raise KeyboardInterrupt
            return super().append_many(datas)

    journal = Interrupted()
    recorder = Recorder(journal, "batch")
    for event in told(10):
        recorder(event)
    with pytest.raises(KeyboardInterrupt):
        recorder.flush()
    assert recorder.waiting == 10
    assert recorder.flush()
    assert tools(journal) == [str(n) for n in range(10)]


def test_a_signal_handler_that_flushes_within_a_flush_does_not_wait_for_itself() -> None:
    class Handled(MemoryJournal):
        within: Callable[[], object] | None = None

        def append_many(self, datas: Any, keys: Any = ()) -> str:
            within, self.within = self.within, None
            if within is not None:
                within()
            return super().append_many(datas)

    journal = Handled()
    recorder = Recorder(journal, "batch")
    journal.within = recorder.flush
    for event in told(10):
        recorder(event)
    done = threading.Thread(target=recorder.flush, daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    assert sorted(tools(journal), key=int) == [str(n) for n in range(10)]


# -- logs that are long, and many --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 30, 31, 64, 1000, 1 << 20])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_log_is_read_in_parts_of_any_size_as_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, damaged: bool
) -> None:
    journal = SegmentJournal(tmp_path, opening=lambda: b"opening", segment_bytes=20_000)
    data = [b"%d" % n + b"x" * (n * 37 % 300) for n in range(100)]
    data[50] = b"big" * 5_000
    ends = [journal.append(each) for each in data]
    journal.close()
    expected = data
    if damaged:
        path = min(tmp_path.glob("*.seg"))
        content = bytearray(path.read_bytes())
        first = int(ends[9].split("/")[2]) + 20
        content[first] ^= 1  # a head
        content[int(ends[31].split("/")[2]) - 1] ^= 1  # the last byte of a record
        path.write_bytes(content[:-1] if chunk == 64 else content)
        expected = [each for n, each in enumerate(data) if n not in (10, 31)]
    monkeypatch.setattr(logs, "_CHUNK", chunk)
    (log,) = writers(tmp_path)
    read = list(log.read())
    last = [each.data for each in read][-1]
    assert [each.data for each in read if each.data in expected] == [each.data for each in read]
    missing = [n for n, each in enumerate(expected) if each not in {record.data for record in read}]
    assert len(missing) == (1 if damaged and chunk == 64 else 0)  # the one that was cut
    assert (log.opening, last, log.damaged) == (b"opening", data[-1], (2 + (chunk == 64)) if damaged else 0)
    assert [each.data for each in log.read(after=read[20].position)] == [each.data for each in read[21:]]


def test_a_log_that_is_followed_shows_what_is_written_and_dropped_meanwhile(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path, segment_bytes=100, max_bytes=1000)
    journal.append(b"0" * 60)
    (log,) = writers(tmp_path)
    assert [each.data[:2] for each in log.read()] == [b"00"]
    for number in range(1, 4):
        journal.append(b"%02d" % number + b"x" * 60)
    assert [each.data[:2] for each in log.read()] == [b"00", b"01", b"02", b"03"]
    for number in range(4, 30):  # all that the log had seen is dropped
        journal.append(b"%02d" % number + b"x" * 60)
    shown = [each.data[:2] for each in log.read()]
    assert shown == [record.data[:2] for record in journal.read()]
    assert shown[-1] == b"29"


def test_looking_at_a_writer_does_not_look_at_the_files_of_all_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        recorder = Recorder(writer(tmp_path, Opening(source=f"s{number}")), "event")
        for event in told(3):
            recorder(event)
        recorder.close()
    listed: list[Path] = []
    listing = places.listing

    def counted(directory: Path) -> Any:
        listed.append(directory)
        return listing(directory)

    monkeypatch.setattr(logs, "listing", counted)
    for source in sources(tmp_path):
        assert source.opening is not None
        assert source.begins_ns() == 1
        assert source.number() == len(list(source.events())) == 3
        claim = source.claim()
        assert claim is not None
        claim.finish()
        claim.release()
    assert len(listed) == 1
    assert [source.finished for source in sources(tmp_path)] == [True] * 20


def test_a_record_is_what_was_appended(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path)
    position = journal.append_many([b"one", b"two"])
    assert list(journal.read())[-1] == Record(position, b"two", 1)
