"""Whatever several journals on one directory go through: each one's items are acknowledged, dropped or pending."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from otel_agentbus.journal import SegmentJournal, writers

WHICH = st.integers(0, 2)


def settled(journal: SegmentJournal) -> tuple[int, int, int]:
    """What it adopted, dropped and has, without anything found out in between."""
    seen: tuple[int, int, int] | None = None
    while True:
        before, seen = seen, (journal.counts.adopted, journal.counts.dropped.total(), journal.pending)
        if seen == before:
            return seen


class _Ledger(RuleBasedStateMachine):
    """Three journals with a small bound, and somebody who deletes and damages their files."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.journals = [self.made() for _ in range(3)]
        self.came = [0, 0, 0]
        self.done = [0, 0, 0]

    def made(self) -> SegmentJournal:
        return SegmentJournal(self.directory / "j", segment_bytes=300, max_bytes=2500, opening=lambda: b"opening")

    @rule(which=WHICH, count=st.integers(1, 8), length=st.integers(0, 400), items=st.integers(0, 9))
    def append(self, which: int, count: int, length: int, items: int) -> None:
        for _ in range(count):
            try:
                self.journals[which].append(b"x" * length, items)
            except OSError:
                continue  # the others take all of the bound
            self.came[which] += items

    @rule(which=WHICH, most=st.integers(1, 12))
    def consume(self, which: int, most: int) -> None:
        records = [record for record, _ in zip(self.journals[which].read(), range(most), strict=False)]
        for record in records:
            self.journals[which].ack(record.position)
            self.done[which] += record.items

    @rule(which=WHICH)
    def adopt(self, which: int) -> None:
        self.journals[which].adopt()

    @rule(which=WHICH)
    def close(self, which: int) -> None:
        self.journals[which].close()
        self.journals[which] = self.made()
        self.came[which] = self.done[which] = 0

    @rule(which=st.floats(0, 1))
    def delete_a_file(self, which: float) -> None:
        paths = sorted(self.directory.glob("j/*.*"))
        if paths:
            paths[int(which * (len(paths) - 1))].unlink()

    @rule(which=st.floats(0, 1), at=st.floats(0, 1))
    def damage_a_file(self, which: float, at: float) -> None:
        paths = [path for path in sorted(self.directory.glob("j/*.seg")) if path.stat().st_size]
        if paths:
            path = paths[int(which * (len(paths) - 1))]
            content = bytearray(path.read_bytes())
            content[int(at * (len(content) - 1))] ^= 0x55
            with path.open("r+b") as file:
                file.write(content)

    @rule()
    def delete_everything(self) -> None:
        shutil.rmtree(self.directory / "j", ignore_errors=True)

    @invariant()
    def every_item_is_somewhere(self) -> None:
        for journal, came, done in zip(self.journals, self.came, self.done, strict=True):
            adopted, dropped, pending = settled(journal)
            assert came + adopted == done + dropped + pending

    def teardown(self) -> None:
        for which, journal in enumerate(self.journals):
            while journal.adopt():
                pass
            self.consume(which, 10_000)
            assert journal.pending == 0
            self.every_item_is_somewhere()
            journal.close()
        heir = self.made()  # what is left now are segments that nobody could read
        assert (heir.adopt(), list(heir.read())) == (0, [])
        heir.close()
        assert [log.name for log in writers(self.directory / "j")] == []
        shutil.rmtree(self.directory)


TestLedger = _Ledger.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40)
