"""A journal: what is appended is read, in order, until it is acknowledged, also by the next process."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.journal import Claim, Journal, JournalCounts, MemoryJournal, Record, SegmentJournal, writers


class Made(Protocol):
    def __call__(self, **options: Any) -> SegmentJournal: ...


@pytest.fixture
def journals(tmp_path: Path) -> Iterator[Made]:
    """Journals on one directory that does not exist yet, closed after the test."""
    made = []

    def make(**options: Any) -> SegmentJournal:
        made.append(SegmentJournal(tmp_path / "state" / "journal", **options))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


def data_of(records: Iterator[Record]) -> list[bytes]:
    return [record.data for record in records]


def files_of(journal: SegmentJournal) -> list[str]:
    return sorted(path.name for path in journal.directory.glob("*")) if journal.directory.exists() else []


@pytest.mark.parametrize("kind", [MemoryJournal, SegmentJournal])
def test_what_is_appended_is_read_in_order_until_it_is_acknowledged(kind: Any, tmp_path: Path) -> None:
    journal: Journal = kind() if kind is MemoryJournal else kind(tmp_path)
    positions = [journal.append(b"record %d" % number, number) for number in range(5)]
    expected = [Record(positions[number], b"record %d" % number, number) for number in range(5)]
    assert list(journal.read()) == expected
    assert list(journal.read(after=positions[1])) == expected[2:]
    assert positions == sorted(positions)
    journal.ack(positions[2])
    assert list(journal.read()) == expected[3:]
    journal.ack(positions[0])  # what is done stays done
    assert list(journal.read()) == expected[3:]
    assert journal.pending == 7  # type: ignore[attr-defined]
    journal.sync()
    journal.close()


def test_a_journal_that_nobody_writes_to_leaves_no_file(journals: Made) -> None:
    journal = journals()
    assert (list(journal.read()), journal.adopt(), journal.pending, journal.bytes) == ([], 0, 0, 0)
    journal.sync()
    journal.finish()
    journal.close()
    assert not journal.directory.parent.exists()


def test_a_journal_of_which_everything_is_acknowledged_leaves_no_file_when_it_is_closed(journals: Made) -> None:
    journal = journals()
    for number in range(3):
        journal.ack(journal.append(b"%d" % number))
    assert [name for name in files_of(journal) if name.endswith(".seg")] == []
    journal.close()
    assert files_of(journal) == []


def test_the_next_writer_adopts_what_a_closed_one_left(journals: Made) -> None:
    first = journals()
    positions = [first.append(b"%d" % number, 2) for number in range(4)]
    first.ack(positions[0])
    first.close()
    second = journals()
    own = second.append(b"own", 5)
    assert (second.adopt(), second.pending, second.counts.adopted) == (6, 11, 6)
    assert second.adopt() == 0
    assert [(record.data, record.position) for record in second.read()] == [
        *((b"%d" % number, positions[number]) for number in range(1, 4)),
        (b"own", own),
    ]
    second.ack(positions[-1])
    assert data_of(second.read()) == [b"own"]
    assert all(name.startswith(own.split("/")[0]) for name in files_of(second))


def test_two_living_writers_do_not_see_each_other(journals: Made) -> None:
    first, second = journals(), journals()
    first.append(b"first")
    second.append(b"second")
    assert (second.adopt(), first.adopt()) == (0, 0)
    assert (data_of(first.read()), data_of(second.read())) == ([b"first"], [b"second"])


def test_files_and_directories_are_for_this_user_only_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o777):
        directory = tmp_path / f"{umask:o}" / "state" / "journal"
        before = os.umask(umask)
        try:
            journal = SegmentJournal(directory)
            journal.append(b"1")
            journal.ack(journal.append(b"2"))
            journal.append(b"3")
        finally:
            os.umask(before)
        modes = {path.name.rpartition(".")[2]: path.stat().st_mode & 0o777 for path in directory.iterdir()}
        assert modes == {"lock": 0o600, "seg": 0o600, "ack": 0o600}
        assert [path.stat().st_mode & 0o777 for path in (directory, directory.parent, directory.parent.parent)] == [
            0o700
        ] * 3
        journal.close()


def test_each_segment_begins_with_the_opening_which_is_no_record(journals: Made) -> None:
    asked = iter(range(100))
    journal = journals(segment_bytes=200, opening=lambda: b"opening %d" % next(asked))
    for number in range(12):
        journal.append(b"record %d" % number)
    assert data_of(journal.read()) == [b"record %d" % number for number in range(12)]
    segments = [name for name in files_of(journal) if name.endswith(".seg")]
    assert len(segments) == next(asked) > 2
    (log,) = writers(journal.directory)
    assert log.opening == b"opening 0"
    assert data_of(log.read()) == data_of(journal.read())


def test_a_record_longer_than_a_segment_has_one_of_its_own_and_one_longer_than_the_bound_is_refused(
    journals: Made,
) -> None:
    journal = journals(segment_bytes=1000, max_bytes=10_000)
    journal.append(b"a")
    journal.append(b"b" * 5000)
    with pytest.raises(OSError, match="longer"):
        journal.append(b"c" * 10_000)
    journal.append(b"d")
    assert data_of(journal.read()) == [b"a", b"b" * 5000, b"d"]
    assert journal.counts == JournalCounts()


def test_the_bound_holds_over_the_directory_and_the_oldest_items_are_dropped_and_counted(journals: Made) -> None:
    dead = journals()
    dead.append(b"x" * 400, 7)
    dead.close()
    journal = journals(max_bytes=10_000, segment_bytes=1000, opening=lambda: b"opening")
    for number in range(100):
        journal.append(b"%3d" % number + b"x" * 200, 3)
        assert journal.bytes <= 10_000
    left = [int(data[:3]) for data in data_of(journal.read())]
    assert left == list(range(100 - len(left), 100))
    assert 30 < len(left) < 45
    assert journal.counts.dropped == {"full": (100 - len(left)) * 3 + 7}
    assert journal.counts.adopted == 7  # and dropped at once
    assert journal.pending == len(left) * 3


def test_a_living_writer_counts_what_another_dropped_of_it(journals: Made) -> None:
    options = {"max_bytes": 10_000, "segment_bytes": 1000}
    first, second = journals(**options), journals(**options)
    for number in range(12):
        first.append(b"%2d" % number + b"x" * 300, 2)
    for number in range(100):
        second.append(b"%3d" % number + b"x" * 300, 3)
        assert second.bytes <= 10_000
    kept = data_of(first.read())
    assert 0 < len(kept) <= 3  # of its last segment, which is the writer's own
    assert first.counts.dropped == {"full": (12 - len(kept)) * 2}
    assert second.counts.dropped == {"full": (100 - len(data_of(second.read()))) * 3}
    assert first.pending == len(kept) * 2


def test_what_is_too_old_is_dropped_and_counted(journals: Made) -> None:
    dead = journals()
    dead.append(b"dead", 2)
    dead.close()
    journal = journals(max_age=3600, segment_bytes=100)
    for number in range(6):
        journal.append(b"%d" % number + b"x" * 50, 5)
    paths = sorted(journal.directory.glob("*.seg"))
    for path in paths[:3]:
        os.utime(path, (0, 0))
    os.utime(paths[3], (2**33, 2**33))  # a clock that was ahead
    assert journal.adopt() == 0
    assert [data[:1] for data in data_of(journal.read())] == [b"2", b"3", b"4", b"5"]
    assert journal.counts.dropped == {"age": 12}
    for path in paths[3:]:
        os.utime(path, (0, 0))
    assert data_of(journal.read()) == []
    assert journal.counts.dropped == {"age": 32}
    assert journal.pending == 0
    journal.append(b"young")
    assert data_of(journal.read()) == [b"young"]


def test_a_clock_that_jumps_makes_nothing_old(journals: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    journal = journals(max_age=60, segment_bytes=100)
    now = time.time
    expected = []
    for jump in (0, 10**9, -(10**9)):
        monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
        expected.append(b"at %d" % jump + b"x" * 80)
        journal.append(expected[-1])
        assert data_of(journal.read()) == expected
    assert journal.counts == JournalCounts()


def test_with_keep_acknowledged_records_stay_for_who_looks_from_outside(journals: Made) -> None:
    journal = journals(keep=True, segment_bytes=100)
    expected = [b"%d" % number for number in range(20)]
    positions = [journal.append(data) for data in expected]
    journal.ack(positions[9])
    assert data_of(journal.read()) == expected[10:]
    (log,) = writers(journal.directory)
    assert data_of(log.read()) == expected
    assert data_of(log.read(after=positions[14])) == expected[15:]
    assert (log.acked, log.finished, log.alive) == (positions[9], False, True)
    journal.finish()
    assert (data_of(journal.read()), journal.pending, log.finished) == ([], 0, True)
    assert data_of(log.read()) == expected
    journal.append(b"more")
    assert (data_of(journal.read()), log.finished) == ([b"more"], False)
    journal.finish()
    journal.close()
    assert (log.alive, log.finished, data_of(log.read())) == (False, True, [*expected, b"more"])
    other = journals(keep=True)
    assert (other.adopt(), data_of(other.read()), data_of(log.read())) == (0, [], [*expected, b"more"])


def test_without_keep_a_finished_log_is_deleted(journals: Made) -> None:
    journal = journals(segment_bytes=100)
    for number in range(20):
        journal.append(b"%d" % number)
    journal.finish()
    assert [name for name in files_of(journal) if name.endswith(".seg")] == []
    journal.close()
    assert files_of(journal) == []


def test_a_dead_writers_log_is_claimed_by_one_only_acknowledged_finished_and_removed(journals: Made) -> None:
    journal = journals()
    positions = [journal.append(b"%d" % number, 2) for number in range(3)]
    (log,) = writers(journal.directory)
    assert log.claim() is None
    journal.close()
    claim = log.claim()
    assert isinstance(claim, Claim)
    with claim:
        assert (log.alive, log.claim(), journals().adopt()) == (True, None, 0)
        assert claim.pending == 6
        claim.ack(positions[0])
        assert (claim.pending, log.acked) == (4, positions[0])
        with pytest.raises(ValueError, match="another writer"):
            claim.ack(MemoryJournal().append(b"of another"))
        claim.finish()
        assert (claim.pending, log.finished) == (0, True)
    assert (log.alive, data_of(log.read())) == (False, [b"0", b"1", b"2"])
    again = log.claim()
    assert again is not None
    with again:
        again.remove()
    assert (files_of(journal), writers(journal.directory)) == ([], [])


def test_a_position_that_no_journal_gave_is_refused_and_one_of_a_stranger_is_ignored(journals: Made) -> None:
    journal = journals()
    journal.append(b"1")
    for wrong in ("", "x", "0" * 60, f"{'0' * 16}-1-00000000/00000001/0/0"):
        with pytest.raises(ValueError, match="no position"):
            journal.ack(wrong)
        with pytest.raises(ValueError, match="no position"):
            journal.read(after=wrong)
    other = MemoryJournal()
    journal.ack(other.append(b"2"))
    other.ack(journal.append(b"3"))
    assert (data_of(journal.read()), data_of(other.read())) == ([b"1", b"3"], [b"2"])


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {"max_age": -1.0}, {"segment_bytes": 0}])
def test_bounds_that_are_none_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SegmentJournal(tmp_path, **options)


def test_reading_goes_on_while_others_append_acknowledge_and_drop(journals: Made) -> None:
    journal = journals(segment_bytes=300, max_bytes=20_000)
    for number in range(60):
        journal.append(b"%03d" % number)
    read = []
    for record in journal.read():
        read.append(record.data)
        journal.append(b"later")
        if record.data == b"010":
            ahead = [each.position for each in journal.read() if each.data == b"040"]
            journal.ack(ahead[0])
    assert read == [b"%03d" % number for number in (*range(11), *range(41, 60))]


def test_threads_append_at_once_and_every_record_is_read_once(journals: Made) -> None:
    journal = journals(segment_bytes=4096)
    positions: list[list[str]] = [[] for _ in range(4)]
    stop = threading.Event()

    def append(mine: list[str], mark: bytes) -> None:
        mine.extend(journal.append(mark + b"%d" % number) for number in range(300))

    def look() -> None:
        while not stop.is_set():
            list(journal.read())
            assert journal.pending >= 0

    looking = threading.Thread(target=look)
    looking.start()
    threads = [threading.Thread(target=append, args=(mine, b"%d:" % n)) for n, mine in enumerate(positions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    looking.join()
    expected = {
        position: b"%d:%d" % (n, number) for n, mine in enumerate(positions) for number, position in enumerate(mine)
    }
    records = list(journal.read())
    assert {record.position: record.data for record in records} == expected
    assert [record.position for record in records] == sorted(expected)


def test_many_dead_writers_are_adopted_and_descriptors_stay_bounded(journals: Made) -> None:
    for number in range(150):
        journal = journals()
        journal.append(b"%d" % number)
        journal.close()
    heir = journals()
    before = len(os.listdir("/dev/fd"))
    adopted, read = 0, []
    while items := heir.adopt():
        adopted += items
        assert len(os.listdir("/dev/fd")) - before < 80
        for record in heir.read():
            read.append(record.data)
            heir.ack(record.position)
    assert (adopted, read) == (150, [b"%d" % number for number in range(150)])
    assert len(os.listdir("/dev/fd")) == before
    assert files_of(heir) == []


class _Model(RuleBasedStateMachine):
    """A journal beside a list: whatever is done in whatever order, both hold the same."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.temporary = tempfile.TemporaryDirectory()
        self.expected: list[Record] = []
        self.known: list[str] = []
        self.journal = self.opened()

    def opened(self) -> SegmentJournal:
        return SegmentJournal(Path(self.temporary.name) / "j", segment_bytes=300, opening=lambda: b"opening")

    @rule(data=st.binary(max_size=120), items=st.integers(0, 5))
    def append(self, data: bytes, items: int) -> None:
        position = self.journal.append(data, items)
        self.known.append(position)
        self.expected.append(Record(position, data, items))

    @precondition(lambda self: self.known)
    @rule(choice=st.data())
    def ack(self, choice: st.DataObject) -> None:
        position = choice.draw(st.sampled_from(self.known))
        self.journal.ack(position)
        writer = position.split("/")[0]
        self.expected = [
            record
            for record in self.expected
            if record.position.split("/")[0] != writer or record.position[: len(position)] > position
        ]

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = self.opened()
        self.journal.adopt()

    @rule()
    def finish(self) -> None:
        own = self.journal.name
        self.journal.finish()
        self.expected = [record for record in self.expected if record.position.split("/")[0] != own]

    @precondition(lambda self: self.known)
    @rule(choice=st.data())
    def read_after(self, choice: st.DataObject) -> None:
        position = choice.draw(st.sampled_from(self.known))
        expected = [record for record in sorted(self.expected) if record.position > position]
        assert list(self.journal.read(after=position)) == expected

    @invariant()
    def holds_the_same(self) -> None:
        assert list(self.journal.read()) == sorted(self.expected)
        assert self.journal.pending == sum(record.items for record in self.expected)
        assert self.journal.counts.dropped == Counter()
        assert self.journal.counts.corrupt == 0

    def teardown(self) -> None:
        self.journal.close()
        self.temporary.cleanup()


TestModel = _Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30)
