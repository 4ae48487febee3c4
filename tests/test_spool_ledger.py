"""The books of the spool: whatever an endpoint answers and a disk does, every span is in exactly one column."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otel_agentbus.telemetry.senders.verdict import Verdict
from otel_agentbus.telemetry.spool import SpoolingSpanExporter, pace
from otel_agentbus.testing import wait_until

from .spooling import ScriptedSender, spans

VERDICTS = st.builds(
    Verdict,
    st.sampled_from(["delivered", "unavailable", "failed", "unauthorised", "too_large", "refused"]),
    rejected=st.integers(0, 3),
)
SCRIPTS = st.lists(VERDICTS, max_size=12)


class Ledger(RuleBasedStateMachine):
    """An exporter on a scripted sender; one directory that exporters come to and leave."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.patches = [patch.object(pace, name, 1_000.0) for name in ("FIRST_S", "LONGEST_S")]
        for each in self.patches:
            each.start()
        self.sender = ScriptedSender()
        self.names = map(str, count())
        self.given = 0
        self.taken = 0  # spans that a sender said were delivered
        self.before = Counter[str]()  # the counts of exporters that have ended
        self.damaged = False
        self.unknown = 0  # in a record at the damaged end of a log: how many spans it had died with its process

    def open(self) -> SpoolingSpanExporter:
        return SpoolingSpanExporter(
            self.sender, self.directory / "spool", key="k", max_bytes=self.max_bytes, exit_timeout=0.5
        )

    @initialize(max_bytes=st.sampled_from([4_000, 20_000, 10_000_000]))
    def begin(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.exporter = self.open()

    def batch(self, size: int) -> list[Any]:
        self.given += size
        return spans(*(next(self.names) for _ in range(size)))

    @rule(size=st.integers(1, 9), script=SCRIPTS)
    def export(self, size: int, script: list[Verdict]) -> None:
        self.sender.script.extend(script)
        self.exporter.export(self.batch(size))
        self.settle()

    @rule(size=st.integers(1, 9))
    def spill(self, size: int) -> None:
        lost = self.exporter.spill(self.batch(size))
        assert 0 <= lost <= size
        self.settle()

    @rule(script=SCRIPTS)
    def flush(self, script: list[Verdict]) -> None:
        self.sender.script.extend(script)
        before = self.exporter.counts
        if self.exporter.force_flush(5_000):
            after = self.exporter.counts
            assert (after.dropped, after.dead_lettered, after.rejected) == (
                before.dropped,
                before.dead_lettered,
                before.rejected,
            )
        self.settle()

    @rule()
    def hand_over_to_the_next_process(self) -> None:
        self.end()
        waiting = self.exporter.spooled
        self.sender = ScriptedSender(*self.sender.script, default="unavailable")
        self.exporter = self.open()
        assert wait_until(lambda: self.exporter._courier._look_at > 0)  # it has looked for what the dead have left
        counts = self.exporter.counts
        self.unknown += waiting - counts.adopted
        assert self.unknown == 0 or self.damaged
        self.settle()
        self.sender.default = "delivered"

    @precondition(lambda self: (self.directory / "spool" / "k").exists())
    @rule()
    def lose_the_directory(self) -> None:
        waiting = self.exporter.spooled
        while (self.directory / "spool").exists():  # its thread may delete files of its own meanwhile
            shutil.rmtree(self.directory / "spool", ignore_errors=True)
        assert wait_until(lambda: self.exporter.spooled == 0)
        assert self.exporter.counts.dropped["spool_removed"] >= waiting

    @precondition(lambda self: (self.directory / "spool" / "k").exists())
    @rule()
    def damage_a_file(self) -> None:
        for path in list((self.directory / "spool" / "k").glob("*.seg"))[:1]:
            content = bytearray(path.read_bytes())
            if content:
                content[len(content) // 2] ^= 0xFF
                self.damaged = True
                path.write_bytes(content)  # the same file: a writer goes on appending to it

    def settle(self) -> None:
        """Wait until the thread does nothing."""
        courier = self.exporter._courier

        def quiet() -> bool:
            with courier._changed:
                idle = not courier._jobs and not courier._resending
                return idle and ((not courier.pace.well and courier.pace.next_at > 0) or self.exporter.spooled == 0)

        assert wait_until(quiet)

    def end(self) -> None:
        self.exporter.shutdown()
        counts = self.exporter.counts
        assert counts.balanced
        self.before += self.columns()
        self.taken += len(self.sender.names)

    def columns(self) -> Counter[str]:
        counts = self.exporter.counts
        return counts.dropped + Counter(
            delivered=counts.delivered, rejected=counts.rejected, dead_lettered=counts.dead_lettered
        )

    @invariant()
    def every_span_is_in_one_column(self) -> None:
        if not hasattr(self, "exporter"):
            return
        counts = self.exporter.counts
        assert counts.balanced, counts
        assert counts.in_flight == 0
        columns = self.before + self.columns()
        assert columns.total() + counts.spooled + self.unknown == self.given, (columns, counts)
        # What was delivered of a batch that is halved is counted when nothing of it waits any more.
        assert columns["delivered"] + columns["rejected"] <= self.taken + len(self.sender.names)

    def teardown(self) -> None:
        if hasattr(self, "exporter"):
            self.end()
        for each in self.patches:
            each.stop()
        shutil.rmtree(self.directory)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink what waits for seconds takes too long
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
