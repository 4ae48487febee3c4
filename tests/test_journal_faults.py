"""A journal under damage, full disks and deleted files: readers get no exception and nothing false; losses count."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_agentbus.journal import JournalCounts, SegmentJournal, WriterLog, writers
from otel_agentbus.testing import wait_until

from .receivers import in_a_process_of_its_own

ITEMS = [1, 20, 300, 4000, 50_000]


def data_of(journal: SegmentJournal | WriterLog) -> list[bytes]:
    return [record.data for record in journal.read()]


def segments_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.seg"))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes], list[int]]:
    """What a writer left in one segment: its directory, its records, and the offsets at which they end.

    One record has a copy of the file in it, as it was then.
    """
    directory = tmp_path_factory.mktemp("left")
    journal = SegmentJournal(directory, opening=lambda: b"opening")
    data, ends = [], []
    for number, items in enumerate(ITEMS):
        data.append(segments_of(directory)[0].read_bytes() if number == 3 else b"record %d" % number)
        ends.append(int(journal.append(data[-1], items).split("/")[2]))
    journal.close()
    return directory, data, ends


@pytest.fixture
def copied(left: tuple[Path, list[bytes], list[int]], tmp_path: Path) -> Callable[[bytes], Path]:
    """Gives a new copy of that directory with this as the segment."""
    numbers = iter(range(10_000))

    def copy(content: bytes) -> Path:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        (directory / segments_of(left[0])[0].name).write_bytes(content)
        return directory

    return copy


def test_wherever_the_last_record_is_cut_the_others_are_read_and_the_torn_end_is_cut(
    left: tuple[Path, list[bytes], list[int]], copied: Callable[[bytes], Path]
) -> None:
    directory, data, ends = left
    content = segments_of(directory)[0].read_bytes()
    assert len(content) == ends[-1]
    for cut in range(ends[-2], ends[-1]):
        copy = copied(content[:cut])
        assert data_of(writers(copy)[0]) == data[:-1]
        journal = SegmentJournal(copy)
        assert journal.adopt() == sum(ITEMS[:-1])
        assert data_of(journal) == data[:-1]
        assert journal.counts == JournalCounts(adopted=sum(ITEMS[:-1]), torn_bytes=cut - ends[-2])
        assert segments_of(copy)[0].stat().st_size == ends[-2]
        journal.append(b"more")
        assert data_of(journal) == [*data[:-1], b"more"]
        journal.close()


def test_one_flipped_byte_anywhere_costs_its_record_only_is_counted_and_kept_aside(
    left: tuple[Path, list[bytes], list[int]], copied: Callable[[bytes], Path]
) -> None:
    directory, data, ends = left
    content = segments_of(directory)[0].read_bytes()
    opening = ends[0] - len(data[0]) - (ends[1] - ends[0] - len(data[1]))
    for offset in range(len(content)):
        hit = None if offset < opening else next(n for n, end in enumerate(ends) if offset < end)
        flipped = bytearray(content)
        flipped[offset] ^= 1 + offset % 255
        copy = copied(bytes(flipped))
        expected = [each for number, each in enumerate(data) if number != hit]
        (log,) = writers(copy)
        assert (data_of(log), log.damaged) == (expected, 1)
        assert log.opening in ((None,) if hit is None else (b"opening",))
        journal = SegmentJournal(copy)
        journal.adopt()
        for _ in range(2):  # it is counted once
            assert data_of(journal) == expected
        start, end = (0, opening) if hit is None else ((opening, *ends)[hit], ends[hit])
        lost = 0 if hit is None else ITEMS[hit]
        last_head = hit == len(ITEMS) - 1 and offset < end - len(data[-1])  # nothing says how many items it had
        assert journal.counts.dropped == ({"corrupt": lost} if lost and not last_head else {})
        assert (journal.counts.corrupt, journal.counts.corrupt_bytes) == (1, end - start)
        assert journal.counts.torn_bytes == 0
        assert journal.pending == sum(ITEMS) - lost
        assert [path.read_bytes() for path in (copy / "corrupt").iterdir()] == [bytes(flipped[start:end])]
        journal.close()


def test_damage_under_a_living_writer_is_counted_to_the_last_item(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path)
    for number, items in enumerate(ITEMS):
        journal.append(b"record %d" % number, items)
    (segment,) = segments_of(tmp_path)
    content = bytearray(segment.read_bytes())
    each = len(content) // len(ITEMS)
    for offset in (each + 20, 4 * each + 5):  # the data of the second, the head of the last
        content[offset] ^= 0xFF
    segment.write_bytes(content)
    assert data_of(journal) == [b"record 0", b"record 2", b"record 3"]
    lost = ITEMS[1] + ITEMS[4]
    assert (journal.counts.dropped, journal.counts.corrupt) == ({"corrupt": lost}, 2)
    assert journal.pending == sum(ITEMS) - lost
    journal.append(b"more", 7)
    assert data_of(journal) == [b"record 0", b"record 2", b"record 3", b"more"]
    for record in journal.read():
        journal.ack(record.position)
    assert (journal.pending, journal.counts.dropped) == (0, {"corrupt": lost})
    journal.close()


@pytest.mark.parametrize("cut", [-4, 0])  # within a record, and between two
def test_a_segment_that_was_made_shorter_by_somebody_costs_what_was_in_it(tmp_path: Path, cut: int) -> None:
    journal = SegmentJournal(tmp_path)
    for number, items in enumerate(ITEMS):
        journal.append(b"record %d" % number, items)
    (segment,) = segments_of(tmp_path)
    os.truncate(segment, segment.stat().st_size * (3 if cut else 2) // 5 + cut)
    assert data_of(journal) == [b"record 0", b"record 1"]
    journal.append(b"more", 7)
    assert data_of(journal) == [b"record 0", b"record 1", b"more"]
    assert journal.counts.dropped == {"corrupt": sum(ITEMS[2:])}
    assert journal.pending == sum(ITEMS[:2]) + 7
    journal.close()


@given(garbage=st.binary(min_size=1, max_size=200), at=st.integers(0, 4))
def test_garbage_between_records_is_stepped_over(
    left: tuple[Path, list[bytes], list[int]], tmp_path_factory: pytest.TempPathFactory, garbage: bytes, at: int
) -> None:
    directory, data, ends = left
    segment = segments_of(directory)[0]
    content = segment.read_bytes()
    copy = tmp_path_factory.mktemp("garbage")
    (copy / segment.name).write_bytes(content[: ends[at]] + garbage)
    (copy / segment.name.replace("-00000001", "-00000002")).write_bytes(garbage)
    journal = SegmentJournal(copy)
    journal.adopt()
    assert data_of(journal) == data[: at + 1]
    assert journal.counts.corrupt_bytes + journal.counts.torn_bytes == 2 * len(garbage)
    journal.close()
    shutil.rmtree(copy)


def test_the_middle_of_a_segment_moved_elsewhere_is_no_record_there(
    left: tuple[Path, list[bytes], list[int]], tmp_path: Path
) -> None:
    directory, _, ends = left
    segment = segments_of(directory)[0]
    content = segment.read_bytes()
    for name, moved in ((segment.name, content[ends[0] :]), (segment.name.replace("-00000001", "-00000002"), content)):
        copy = tmp_path / name
        copy.mkdir()
        (copy / name).write_bytes(moved)
        assert data_of(writers(copy)[0]) == []


def test_a_damaged_acknowledgement_has_records_read_again_and_loses_none(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journal = SegmentJournal(directory)
    positions = [journal.append(b"%d" % number) for number in range(6)]
    for position in positions[:3]:
        journal.ack(position)
    journal.close()
    (ack,) = directory.glob("*.ack")
    content = ack.read_bytes()
    seen = set()
    for number, offset in enumerate(range(len(content))):
        flipped = bytearray(content)
        flipped[offset] ^= 0xFF
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        (copy / ack.name).write_bytes(flipped)
        heir = SegmentJournal(copy)
        heir.adopt()
        seen.add(tuple(data_of(heir)))
        heir.close()
    assert seen == {(b"3", b"4", b"5"), (b"2", b"3", b"4", b"5")}


def test_strange_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    name = f"{1:016x}-1-00000000"
    (tmp_path / f"{name}-00000001.seg").mkdir()
    (tmp_path / f"{name}-00000002.seg").symlink_to("nowhere")
    (tmp_path / f"{2:016x}-1-00000000.lock").mkdir()
    (tmp_path / f"{2:016x}-1-00000000-00000001.seg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.iterdir())
    journal = SegmentJournal(tmp_path)
    journal.append(b"1")
    assert (journal.adopt(), data_of(journal)) == (0, [b"1"])
    assert [log.alive for log in writers(tmp_path)][:2] == [False, False]
    journal.finish()
    journal.close()
    left = sorted(tmp_path.iterdir())
    assert [path for path in before if path not in left] == []


def test_a_directory_that_cannot_be_is_an_error_of_append_alone_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("a file")
    journal = SegmentJournal(path / "deeper")
    for _ in range(2):
        with pytest.raises(OSError):
            journal.append(b"lost")
        assert (data_of(journal), journal.adopt(), journal.pending, journal.bytes) == ([], 0, 0, 0)
    path.unlink()
    journal.append(b"kept")
    assert (data_of(journal), journal.counts) == ([b"kept"], JournalCounts())
    journal.close()


def test_a_disk_that_fills_up_fails_the_append_leaves_nothing_of_it_and_works_again() -> None:
    happened = in_a_process_of_its_own(
        """
        import json, os, resource, tempfile
        from otel_agentbus.journal import SegmentJournal, writers
        with tempfile.TemporaryDirectory() as directory:
            journal = SegmentJournal(directory, segment_bytes=1 << 20, opening=lambda: b"opening")
            kept, refused, sizes = [], set(), set()
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
            for number in range(60):
                data = b"%03d" % number + b"x" * (number * 7 % 200)
                try:
                    journal.append(data)
                    kept.append(data)
                except OSError as error:
                    refused.add(error.errno)
                    sizes.add(os.path.getsize(next(e.path for e in os.scandir(directory) if e.name.endswith("seg"))))
            full = len(kept)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            for number in range(5):
                kept.append(b"again %d" % number)
                journal.append(kept[-1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            journal.ack(next(journal.read()).position)
            other = SegmentJournal(directory, opening=lambda: b"opening")
            try:
                other.append(b"none")
            except OSError as error:
                refused.add(error.errno)
            whole = [record.data for record in writers(directory)[0].read()] == kept
            rest = [record.data for record in journal.read()] == kept[1:]
            files = len([name for name in os.listdir(directory) if name.endswith(".seg")])
            counts = journal.counts
            print(json.dumps([full, sorted(refused), max(sizes) <= 3000, whole, rest, files, counts.unsaved_acks]))
        """
    )
    full, *others = happened
    assert 10 < full < 60
    assert others == [[errno.EFBIG], True, True, True, 1, 1]


def test_a_small_file_system_that_is_full_refuses_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    if os.system(f"mount -t tmpfs -o size=128k journal {tmp_path} 2>/dev/null"):
        pytest.skip("no file system can be mounted here")
    try:
        (tmp_path / "other").write_bytes(b"x" * 60_000)
        journal = SegmentJournal(tmp_path / "journal", segment_bytes=10_000)
        kept: list[bytes] = []
        with pytest.raises(OSError) as full:
            while True:
                data = b"%d" % len(kept) + b"x" * 500
                journal.append(data)
                kept.append(data)
        assert full.value.errno == errno.ENOSPC
        assert data_of(journal) == kept
        (tmp_path / "other").unlink()
        journal.append(b"more")
        assert data_of(journal) == [*kept, b"more"]
        assert journal.counts == JournalCounts()
        journal.close()
    finally:
        assert os.system(f"umount {tmp_path}") == 0


def test_that_it_ended_well_can_be_noted_on_a_disk_that_became_full(tmp_path: Path) -> None:
    if os.system(f"mount -t tmpfs -o size=64k journal {tmp_path} 2>/dev/null"):
        pytest.skip("no file system can be mounted here")
    try:
        journal = SegmentJournal(tmp_path / "journal", keep=True)
        with pytest.raises(OSError, match="No space left"):
            while True:
                journal.append(b"x" * 500)
        journal.finish()
        assert journal.counts == JournalCounts()
        journal.close()
        assert [log.finished for log in writers(tmp_path / "journal")] == [True]
    finally:
        assert os.system(f"umount {tmp_path}") == 0


def without(directory: Path, pattern: str) -> None:
    for path in list(directory.glob(pattern)):
        path.unlink()


@pytest.mark.parametrize(
    "remove",
    [
        lambda directory: shutil.rmtree(directory),
        lambda directory: shutil.rmtree(directory.parent),
        lambda directory: directory.rename(directory.parent / "elsewhere"),
        lambda directory: without(directory, "*.seg"),
        lambda directory: without(directory, "*"),
    ],
    ids=["the directory", "its parent", "renamed", "the segments", "all files"],
)
@pytest.mark.parametrize("rotated", [False, True])
def test_what_was_in_a_directory_that_is_removed_is_counted_to_the_last_item_and_a_new_one_made(
    remove: Callable[[Path], None], rotated: bool, tmp_path: Path
) -> None:
    directory = tmp_path / "state" / "journal"
    dead = SegmentJournal(directory)
    dead.append(b"dead", 1_000_000)
    dead.close()
    journal = SegmentJournal(directory, segment_bytes=100 if rotated else None)
    journal.adopt()
    positions = [journal.append(b"record %d" % number, items) for number, items in enumerate(ITEMS)]
    journal.ack(positions[1])
    remove(directory)
    removed = sum(ITEMS[2:]) + 1_000_000
    assert wait_until(lambda: journal.counts.dropped["removed"] >= removed)
    assert (journal.counts.dropped, journal.pending, data_of(journal)) == ({"removed": removed}, 0, [])
    journal.append(b"new", 3)
    assert (data_of(journal), journal.pending) == ([b"new"], 3)
    assert (directory.stat().st_mode & 0o777, len(segments_of(directory))) == (0o700, 1)
    assert journal.counts.dropped == {"removed": removed}
    journal.close()


def test_appends_find_out_by_themselves_that_the_directory_was_removed(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journal = SegmentJournal(directory)
    appended = 0

    def append() -> bool:
        nonlocal appended
        journal.append(b"record", 2)
        appended += 2
        return directory.exists()

    append()
    shutil.rmtree(directory)
    assert wait_until(append)
    kept = data_of(journal)
    assert journal.pending == 2 * len(kept) == 2
    assert journal.counts.dropped == {"removed": appended - 2}
    journal.close()


def test_without_its_lock_file_a_writers_records_stay_its_own(tmp_path: Path) -> None:
    journal = SegmentJournal(tmp_path, segment_bytes=100)
    positions = [journal.append(b"record %d" % number, items) for number, items in enumerate(ITEMS)]
    journal.ack(positions[0])
    without(tmp_path, "*.lock")
    assert wait_until(lambda: any(tmp_path.glob("*.lock")) or journal.pending < 0)
    assert data_of(journal) == [b"record %d" % number for number in range(1, 5)]
    other = SegmentJournal(tmp_path)
    assert other.adopt() == 0
    journal.append(b"more", 7)
    assert data_of(journal) == [*(b"record %d" % number for number in range(1, 5)), b"more"]
    assert journal.counts == JournalCounts()
    assert journal.pending == sum(ITEMS[1:]) + 7
    journal.close()
