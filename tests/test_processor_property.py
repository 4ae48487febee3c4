"""Our span processor against a naive model of it: lists, and no threads."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otel_agentbus.telemetry.processor import SpoolingBatchSpanProcessor
from otel_agentbus.telemetry.span_queue import SpanCounts
from otel_agentbus.testing import wait_until

from .exporting import FAILURE, SUCCESS, Scripted, Spooling, ended


class Model:
    """What should become of the spans."""

    def __init__(self, queue: int, batch: int, spools: bool) -> None:
        self.size, self.batch, self.spools = queue, batch, spools
        self.kept_after_spill = queue - max(1, min(64, queue // 4)) if spools else queue
        self.queue: list[str] = []
        self.in_flight: list[str] | None = None
        self.hanging = self.failing = self.flushed = False
        self.taken = self.failed = 0
        self.exported: list[str] = []
        self.spooled: list[str] = []
        self.spilled: list[str] = []
        self.dropped: Counter[str] = Counter()
        self.bad_since_flush = False

    def end(self, name: str) -> None:
        self.taken += 1
        self.queue.append(name)
        if len(self.queue) > self.size:
            while len(self.queue) > self.kept_after_spill:
                self.bad_since_flush = True
                if self.spools:
                    self.spilled.append(self.queue.pop(0))
                else:
                    self.queue.pop(0)
                    self.dropped["queue_full"] += 1
        self.export(all_of_it=False)

    def export(self, all_of_it: bool) -> None:
        while self.in_flight is None and (len(self.queue) >= self.batch or (all_of_it and self.queue)):
            self.in_flight, self.queue = self.queue[: self.batch], self.queue[self.batch :]
            if not self.hanging:
                self.arrive()

    def arrive(self) -> None:
        batch, self.in_flight = self.in_flight or [], None
        if not self.failing:
            self.exported += batch
        elif batch:
            self.bad_since_flush = True
            if self.spools:
                self.spooled += batch
            else:
                self.failed += len(batch)

    def release(self) -> None:
        self.hanging = False
        self.arrive()
        self.export(all_of_it=False)

    def flush(self) -> bool:
        self.export(all_of_it=True)
        bad, self.bad_since_flush = self.bad_since_flush, False
        return not bad

    @property
    def counts(self) -> SpanCounts:
        return SpanCounts(
            taken=self.taken,
            exported=len(self.exported),
            handed_over=len(self.spilled) + len(self.spooled),
            failed=self.failed,
            dropped=self.dropped,
            waiting=len(self.queue) + len(self.in_flight or []),
            queued_bytes=len(self.queue) * BYTES,
        )


#: What a span of these tests weighs.
BYTES = 1_500


class Processing(RuleBasedStateMachine):
    """Ends spans, flushes, and has the exporter hang, fail and recover, in any order."""

    @initialize(queue=st.integers(1, 12), batch=st.integers(1, 6), spools=st.booleans())
    def begin(self, queue: int, batch: int, spools: bool) -> None:
        batch = min(queue, batch)
        self.model = Model(queue, batch, spools)
        self.exporter = Spooling() if spools else Scripted()
        self.processor = SpoolingBatchSpanProcessor(self.exporter, queue, 1e9, batch)

    @rule(number=st.integers(1, 5))
    def end(self, number: int) -> None:
        for _ in range(number):
            name = str(self.model.taken)
            self.processor.on_end(ended(name))
            self.model.end(name)
            self.settle()

    @rule()
    @precondition(lambda self: not self.model.hanging)
    def flush(self) -> None:
        assert self.processor.force_flush() is self.model.flush()

    @rule()
    @precondition(lambda self: self.model.hanging and self.model.in_flight)
    def flush_in_vain(self) -> None:
        assert self.processor.force_flush(0) is False

    @rule()
    @precondition(lambda self: not self.model.hanging)
    def hang(self) -> None:
        self.exporter.hang()
        self.model.hanging = True

    @rule()
    @precondition(lambda self: self.model.hanging)
    def release(self) -> None:
        self.exporter.release()
        self.model.release()

    @rule(failing=st.booleans())
    def answer(self, failing: bool) -> None:
        self.exporter.answer = FAILURE if failing else SUCCESS
        self.model.failing = failing

    def settle(self) -> None:
        assert wait_until(lambda: self.processor.counts == self.model.counts), (
            self.processor.counts,
            self.model.counts,
        )

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.settle()
        counts = self.processor.counts
        gone = counts.exported + counts.handed_over + counts.failed + counts.dropped.total()
        assert counts.taken == gone + counts.waiting
        assert self.exporter.delivered == self.model.exported
        if isinstance(self.exporter, Spooling):
            assert self.exporter.kept == self.model.spilled

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        model = self.model
        rest = (model.in_flight or []) + model.queue
        self.processor.shutdown(0.02 if model.hanging else 5)
        if model.hanging and model.spools:
            assert wait_until(lambda: self.processor.waiting == 0)
            assert isinstance(self.exporter, Spooling)
            assert self.exporter.kept == model.spilled + rest
        elif model.hanging:
            assert wait_until(lambda: self.processor.dropped["exit_timeout"] == len(rest))
        elif not model.failing:
            assert self.exporter.delivered == model.exported + rest
        self.exporter.release()


TestProcessing = Processing.TestCase
TestProcessing.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
