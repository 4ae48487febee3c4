"""The spooling exporter, whatever the endpoint answers: what is delivered, kept, put aside, and what is counted."""

from __future__ import annotations

import base64
import gc
import json
import os
import stat
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_agentbus.journal import MemoryJournal
from otel_agentbus.telemetry.otlp import Batch, encode
from otel_agentbus.telemetry.senders.verdict import Verdict
from otel_agentbus.telemetry.spool import SpoolCounts, SpoolingSpanExporter, courier, pace
from otel_agentbus.testing import wait_until

from .spooling import ScriptedSender, at_once, for_ever, spans, spool

__all__ = ["at_once", "for_ever"]  # fixtures

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


def counted(exporter: SpoolingSpanExporter) -> dict[str, Any]:
    """The counts that are not zero; they balance."""
    counts = exporter.counts
    assert counts.balanced, counts
    told = {field.name: getattr(counts, field.name) for field in fields(SpoolCounts)}
    return {name: dict(value) if isinstance(value, Counter) else value for name, value in told.items() if value}


def letters(exporter: SpoolingSpanExporter) -> list[dict[str, Any]]:
    assert exporter.directory is not None
    return [json.loads(line) for line in (exporter.directory / "dead-letters.jsonl").read_text().splitlines()]


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


class TestWhileTheEndpointIsWell:
    def test_what_it_takes_is_success_and_leaves_no_file(self, tmp_path: Path) -> None:
        sender = ScriptedSender()
        with spool(sender, tmp_path / "spool") as exporter:
            assert exporter.export(spans("a", "b")) is SUCCESS
            assert exporter.force_flush(1_000)
            assert counted(exporter) == {"taken": 2, "delivered": 2}
        assert sender.names == ["a", "b"]
        assert not (tmp_path / "spool").exists()

    def test_an_empty_batch_is_nothing(self, tmp_path: Path) -> None:
        sender = ScriptedSender()
        with spool(sender, tmp_path) as exporter:
            assert exporter.export([]) is SUCCESS
            assert exporter.spill([]) == 0
            assert counted(exporter) == {}
        assert sender.given == []

    def test_any_exporter_will_do(self, tmp_path: Path) -> None:
        inner = InMemorySpanExporter()
        with spool(inner, tmp_path) as exporter:
            assert exporter.export(spans("a")) is SUCCESS
            assert [span.name for span in inner.get_finished_spans()] == ["a"]
        assert inner.export(spans("b")) is FAILURE  # it was shut down

    def test_rejected_spans_are_counted_and_told_with_the_words(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sender = ScriptedSender(Verdict("delivered", rejected=2, message="no room"))
        with spool(sender, tmp_path) as exporter:
            assert exporter.export(spans("a", "b", "c")) is SUCCESS
            assert counted(exporter) == {"taken": 3, "delivered": 1, "rejected": 2}
        assert [r.getMessage() for r in caplog.records] == [
            "the endpoint took a batch but for some of its spans: it rejected 2 of 3: no room"
        ]


class TestWhileItIsNot:
    @pytest.mark.usefixtures("for_ever")
    @pytest.mark.parametrize("verdict", ["unavailable", "failed", "unauthorised"])
    def test_spans_are_kept_and_nothing_more_is_tried(self, tmp_path: Path, verdict: Any) -> None:
        sender = ScriptedSender(default=verdict)
        with spool(sender, tmp_path) as exporter:
            assert exporter.export(spans("a")) is FAILURE
            assert exporter.export(spans("b", "c")) is FAILURE
            assert len(sender.given) == 1
            assert counted(exporter) == {"taken": 3, "kept": 3, "spooled": 3}
            assert exporter.spooled == 3
            assert exporter.bytes > 0
            assert not exporter.well

    @pytest.mark.usefixtures("at_once")
    @pytest.mark.parametrize("verdict", ["unavailable", "unauthorised"])
    def test_they_are_sent_again_in_order_and_byte_for_byte(self, tmp_path: Path, verdict: Any) -> None:
        sender = ScriptedSender(default=verdict)
        with spool(sender, tmp_path) as exporter:
            for name in "abc":
                assert exporter.export(spans(name)) is FAILURE
            assert wait_until(lambda: len(sender.given) > 20)
            sender.default = "delivered"
            assert wait_until(lambda: exporter.spooled == 0)
            assert sender.taken == [encode(spans(name)) for name in "abc"]
            assert set(sender.given) == {encode(spans("a")), encode(spans("b")), encode(spans("c"))}
            assert counted(exporter) == {"taken": 3, "kept": 3, "delivered": 3, "resent": 3}
            assert exporter.export(spans("d")) is SUCCESS

    @pytest.mark.usefixtures("for_ever")
    def test_fresh_spans_go_first_once_one_batch_was_taken(self, tmp_path: Path) -> None:
        results: list[SpanExportResult] = []

        class Interrupted(ScriptedSender):
            def send(self, batch: Batch) -> Verdict:
                if batch.data == encode(spans("b")) and not results:
                    fresh.start()
                    assert wait_until(lambda: exporter.counts.in_flight == 1)
                return super().send(batch)

        sender = Interrupted("unavailable")
        with spool(sender, tmp_path) as exporter:
            fresh = threading.Thread(target=lambda: results.append(exporter.export(spans("d"))))
            for name in "abc":
                exporter.export(spans(name))
            assert exporter.force_flush(5_000)
            fresh.join(5)
            assert results == [SUCCESS]
            assert sender.names == ["a", "b", "d", "c"]

    @pytest.mark.usefixtures("for_ever")
    def test_a_flush_hurries_and_tells_the_truth(self, tmp_path: Path) -> None:
        sender = ScriptedSender("unavailable", "unavailable")
        with spool(sender, tmp_path) as exporter:
            exporter.export(spans("a"))
            assert not exporter.force_flush(5_000)  # one attempt at once, which fails
            assert len(sender.given) == 2
            assert exporter.force_flush(5_000)
            assert sender.names == ["a"]

    @pytest.mark.usefixtures("for_ever")
    def test_a_flush_is_not_true_when_spans_were_refused(self, tmp_path: Path) -> None:
        sender = ScriptedSender("unavailable", "refused")
        with spool(sender, tmp_path) as exporter:
            exporter.export(spans("a"))
            assert not exporter.force_flush(5_000)
            assert exporter.force_flush(5_000)  # of nothing

    @pytest.mark.usefixtures("for_ever")
    def test_a_flush_ends_in_time_when_the_endpoint_hangs(self, tmp_path: Path) -> None:
        sender = ScriptedSender("unavailable")
        with spool(sender, tmp_path) as exporter:
            exporter.export(spans("a"))
            sender.open.clear()
            assert not exporter.force_flush(50)

    def test_retry_after_wins_if_it_is_longer_and_is_bounded(self) -> None:
        asked = (None, 0.0, 42.0, 10_000.0)
        waits = [pace.Pace().failed(Verdict("unavailable", retry_after=each)) for each in asked]
        assert 0.75 <= waits[0] <= 1.25
        assert 0.75 <= waits[1] <= 1.25
        assert waits[2:] == [42.0, pace.LONGEST_ASKED_S]

    def test_the_pause_doubles_up_to_a_minute_and_begins_anew_after_a_success(self) -> None:
        paced = pace.Pace()
        waits = [paced.failed(Verdict("unavailable")) for _ in range(9)]
        expected = [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert all(0.75 * mean <= wait <= 1.25 * mean for wait, mean in zip(waits, expected, strict=True))
        paced.worked()
        assert paced.well
        assert paced.failed(Verdict("unavailable")) <= 1.25

    def test_refused_credentials_are_tried_again_slowly(self) -> None:
        assert pace.Pace().failed(Verdict("unauthorised")) >= 30

    @pytest.mark.usefixtures("for_ever")
    def test_refused_credentials_are_told_at_once_and_once_a_minute(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [1_000.0]
        monkeypatch.setattr("otel_agentbus.telemetry.spool.complaints.time.monotonic", lambda: now[0])
        sender = ScriptedSender(default=Verdict("unauthorised", message="HTTP 401: who are you?"))
        said = "the endpoint refuses our credentials; the spans are kept until it takes them: HTTP 401: who are you?"
        with spool(sender, tmp_path) as exporter:
            for seconds in (0, 10, 20, 31):
                now[0] += seconds
                exporter.export(spans("a"))
        assert [record.getMessage() for record in caplog.records] == [said, said]


class TestRefusals:
    def test_what_is_refused_is_a_dead_letter(self, tmp_path: Path) -> None:
        sender = ScriptedSender(Verdict("refused", message="HTTP 400: bad"))
        with spool(sender, tmp_path) as exporter:
            assert exporter.export(spans("a", "b")) is FAILURE
            (letter,) = letters(exporter)
            assert letter.pop("time").endswith("Z")
            otlp = base64.b64encode(encode(spans("a", "b"))).decode()
            said = {"reason": "refused: HTTP 400: bad", "endpoint": "the endpoint", "spans": 2, "otlp": otlp}
            assert letter == said
            assert counted(exporter) == {"taken": 2, "dead_lettered": 2}
            assert exporter.well
            assert exporter.directory is not None
            mode = stat.S_IMODE((exporter.directory / "dead-letters.jsonl").stat().st_mode)
            assert (mode, stat.S_IMODE(exporter.directory.stat().st_mode)) == (0o600, 0o700)
            assert exporter.export(spans("c")) is SUCCESS

    def test_what_is_too_large_is_halved_down_to_the_span_that_is_to_blame(self, tmp_path: Path) -> None:
        class Picky(ScriptedSender):
            def send(self, batch: Batch) -> Verdict:
                if "c" in [span.name for span in batch.spans]:
                    return Verdict("too_large", message="HTTP 413: no")
                return super().send(batch)

        sender = Picky()
        with spool(sender, tmp_path) as exporter:
            assert exporter.export(spans(*"abcde")) is FAILURE
            assert sender.names == ["a", "b", "d", "e"]
            assert [(each["reason"], each["spans"]) for each in letters(exporter)] == [("too_large: HTTP 413: no", 1)]
            assert counted(exporter) == {"taken": 5, "delivered": 4, "dead_lettered": 1}

    def test_a_batch_that_is_halved_is_success_when_all_of_it_is_taken(self, tmp_path: Path) -> None:
        sender = ScriptedSender()
        sender.largest = 2
        with spool(sender, tmp_path) as exporter:
            assert exporter.export(spans(*"abcdefg")) is SUCCESS
            assert sender.names == [*"abcdefg"]
        assert files(tmp_path) == set()

    @pytest.mark.usefixtures("for_ever")
    def test_of_a_batch_that_is_halved_only_the_rest_is_kept(self, tmp_path: Path) -> None:
        sender = ScriptedSender("delivered", "unavailable")
        sender.largest = 2
        with spool(sender, tmp_path) as exporter:
            assert exporter.export(spans(*"abcd")) is FAILURE
            assert counted(exporter) == {"taken": 4, "delivered": 2, "kept": 2, "spooled": 2}
            sender.largest = 1
            assert exporter.force_flush(5_000)
            assert sender.names == [*"abcd"]
            assert counted(exporter) == {"taken": 4, "delivered": 4, "kept": 2, "resent": 2}

    @pytest.mark.usefixtures("for_ever")
    def test_what_was_delivered_of_a_batch_on_disk_is_not_sent_again(self, tmp_path: Path) -> None:
        sender = ScriptedSender("unavailable", "delivered", "unavailable")
        with spool(sender, tmp_path) as exporter:
            exporter.export(spans(*"abcd"))
            sender.largest = 2
            assert not exporter.force_flush(5_000)  # a and b are taken, c and d are not
            assert counted(exporter) == {"taken": 4, "kept": 4, "spooled": 4}
            assert exporter.force_flush(5_000)
            assert sender.names == [*"abcd"]
            assert counted(exporter) == {"taken": 4, "delivered": 4, "kept": 4, "resent": 4}

    @pytest.mark.usefixtures("at_once")
    def test_a_batch_on_which_the_endpoint_fails_five_times_is_a_dead_letter(self, tmp_path: Path) -> None:
        class Poisoned(ScriptedSender):
            def send(self, batch: Batch) -> Verdict:
                self.given.append(batch.data)
                if batch.spans[0].name == "poison":
                    return Verdict("failed", message="HTTP 500: oops")
                return super().send(batch)

        sender = Poisoned()
        with spool(sender, tmp_path) as exporter:
            assert exporter.export(spans("poison")) is FAILURE
            exporter.spill(spans("b"))
            assert wait_until(lambda: exporter.spooled == 0)
            assert sender.given.count(encode(spans("poison"))) == 5
            assert sender.names == ["b"]
            assert [each["reason"] for each in letters(exporter)] == ["failed: HTTP 500: oops"]
            assert counted(exporter) == {"taken": 2, "kept": 2, "delivered": 1, "resent": 1, "dead_lettered": 1}

    def test_dead_letters_are_bounded_and_those_that_go_are_counted(self, tmp_path: Path) -> None:
        sender = ScriptedSender(default="refused")
        line = 120 + 4 * len(encode(spans("a"))) // 3
        with spool(sender, tmp_path, max_bytes=8 * 2 * 3 * line) as exporter:  # two files of three lines
            for _ in range(20):
                exporter.export(spans("a"))
            counts = exporter.counts
            assert exporter.directory is not None
            sizes = [path.stat().st_size for path in exporter.directory.glob("dead-letters*.jsonl")]
            lines = sum(path.read_text().count("\n") for path in exporter.directory.glob("dead-letters*.jsonl"))
        assert sum(sizes) <= 2 * 3 * line
        assert counts.dead_lettered == 20
        assert counts.dead_letters_lost == 20 - lines > 0

    def test_where_they_cannot_be_written_spans_are_counted_as_lost(self, tmp_path: Path) -> None:
        sender = ScriptedSender("refused")
        with spool(sender, tmp_path / "file" / "spool") as exporter:
            (tmp_path / "file").touch()
            assert exporter.export(spans("a")) is FAILURE
            assert counted(exporter) == {"taken": 1, "dropped": {"dead_letter_failed": 1}}

    def test_losses_are_told_to_who_asked(self, tmp_path: Path) -> None:
        told: list[tuple[str, int]] = []
        sender = ScriptedSender("refused", Verdict("delivered", rejected=1))
        with spool(sender, tmp_path, on_loss=lambda reason, number: told.append((reason, number))) as exporter:
            exporter.export(spans("a", "b"))
            exporter.export(spans("c", "d"))
        assert told == [("dead_lettered", 2), ("rejected", 1)]

    def test_who_asked_may_fail(self, tmp_path: Path) -> None:
        def fail(reason: str, number: int) -> None:
            raise RuntimeError

        with spool(ScriptedSender("refused"), tmp_path, on_loss=fail) as exporter:
            assert exporter.export(spans("a")) is FAILURE

    @pytest.mark.usefixtures("at_once")
    def test_a_sender_that_raises_has_not_delivered(self, tmp_path: Path) -> None:
        class Broken(ScriptedSender):
            def send(self, batch: Batch) -> Verdict:
                raise ZeroDivisionError

        with spool(Broken(), tmp_path) as exporter:
            assert exporter.export(spans("a")) is FAILURE
            assert wait_until(lambda: exporter.counts.dead_lettered == 1)
            assert counted(exporter) == {"taken": 1, "kept": 1, "dead_lettered": 1}


class TestSpilling:
    @pytest.mark.usefixtures("for_ever")
    def test_spilled_spans_are_on_disk_and_are_sent(self, tmp_path: Path) -> None:
        sender = ScriptedSender("unavailable")
        with spool(sender, tmp_path) as exporter:
            exporter.export(spans("a"))
            assert exporter.spill(spans("b", "c")) == 0
            assert counted(exporter) == {"taken": 3, "kept": 3, "spooled": 3}
            exporter.sync()
            assert exporter.force_flush(5_000)
            assert sender.names == ["a", "b", "c"]

    def test_spans_in_flight_that_are_spilled_are_there_once(self, tmp_path: Path) -> None:
        sender = ScriptedSender()
        sender.open.clear()
        given = spans("a", "b")
        results: list[SpanExportResult] = []
        with spool(sender, tmp_path) as exporter:
            waiting = threading.Thread(target=lambda: results.append(exporter.export(given)))
            waiting.start()
            assert sender.entered.wait(5)
            assert exporter.spill(given) == 0
            waiting.join(5)
            assert results == [FAILURE]
            assert counted(exporter) == {"taken": 2, "kept": 2, "spooled": 2}

    @pytest.mark.usefixtures("for_ever")
    def test_the_bound_drops_the_oldest_and_counts_them(self, tmp_path: Path) -> None:
        sender = ScriptedSender(default="unavailable")
        with spool(sender, tmp_path, max_bytes=100_000) as exporter:
            for number in range(3_000):
                exporter.export(spans(f"{number:06}"))
            counts = counted(exporter)
            assert counts["dropped"] == {"spool_full": 3_000 - counts["spooled"]}
            assert 0 < exporter.bytes <= 100_000
            sender.default = "delivered"
            assert not exporter.force_flush(5_000) or exporter.counts.dropped.total()
            assert wait_until(lambda: exporter.spooled == 0)
            assert sender.names == [f"{number:06}" for number in range(3_000 - counts["spooled"], 3_000)]

    @pytest.mark.usefixtures("for_ever")
    def test_a_span_that_is_larger_than_the_spool_is_counted(self, tmp_path: Path) -> None:
        with spool(ScriptedSender("unavailable"), tmp_path, max_bytes=10_000) as exporter:
            assert exporter.spill(spans("a" * 20_000)) == 1
            assert exporter.counts.dropped.total() == 1
            assert exporter.counts.balanced

    @pytest.mark.usefixtures("for_ever")
    def test_a_directory_that_cannot_be_made_costs_the_spans_and_nothing_else(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        with spool(ScriptedSender(default="unavailable"), tmp_path / "file") as exporter:
            assert exporter.export(spans("a")) is FAILURE
            assert exporter.export(spans("b")) is FAILURE
            assert counted(exporter) == {"taken": 2, "dropped": {"spool_error": 2}}
        told = [record.getMessage() for record in caplog.records if "cannot be spooled" in record.getMessage()]
        assert len(told) == 1

    @pytest.mark.usefixtures("for_ever")
    def test_a_directory_that_is_removed_is_found_out_and_made_anew(self, tmp_path: Path) -> None:
        import shutil

        with spool(ScriptedSender(default="unavailable"), tmp_path / "spool") as exporter:
            exporter.export(spans("a", "b"))
            shutil.rmtree(tmp_path / "spool")
            assert wait_until(lambda: exporter.counts.dropped["spool_removed"] == 2)
            assert exporter.spill(spans("c")) == 0
            assert counted(exporter) == {"taken": 3, "kept": 3, "spooled": 1, "dropped": {"spool_removed": 2}}

    @pytest.mark.usefixtures("for_ever")
    def test_a_journal_of_ones_own_serves_as_well(self) -> None:
        sender, journal = ScriptedSender("unavailable"), MemoryJournal()
        exporter = SpoolingSpanExporter(sender, journal)
        try:
            exporter.export(spans("a"))
            assert journal.pending == 1
            assert exporter.force_flush(5_000)
            assert (sender.names, journal.pending) == (["a"], 0)
        finally:
            exporter.shutdown()

    @pytest.mark.usefixtures("for_ever")
    def test_switched_off_it_keeps_a_little_in_memory_and_counts_what_goes_with_it(self) -> None:
        sender = ScriptedSender(default="unavailable")
        with spool(sender, None) as exporter:
            exporter.export(spans("a", "b"))
            assert counted(exporter) == {"taken": 2, "kept": 2, "spooled": 2}
        assert counted(exporter) == {"taken": 2, "kept": 2, "dropped": {"spool_off": 2}}
        assert exporter.export(spans("c")) is FAILURE
        assert counted(exporter) == {"taken": 3, "kept": 2, "dropped": {"spool_off": 3}}


class TestTheEnd:
    def test_a_batch_in_flight_is_in_the_spool_afterwards(self, tmp_path: Path) -> None:
        class Stuck(ScriptedSender):
            def shutdown(self) -> None:
                """Hang on."""

        sender = Stuck()
        sender.open.clear()
        results: list[SpanExportResult] = []
        with spool(sender, tmp_path) as exporter:
            waiting = threading.Thread(target=lambda: results.append(exporter.export(spans("a"))))
            waiting.start()
            assert sender.entered.wait(5)
            began = time.monotonic()
            exporter.shutdown()
            assert time.monotonic() - began < 2
            waiting.join(5)
            assert results == [FAILURE]
            assert counted(exporter) == {"taken": 1, "kept": 1, "spooled": 1}
        sender.open.set()
        again = ScriptedSender()
        with spool(again, tmp_path) as exporter:
            assert wait_until(lambda: again.names == ["a"])

    def test_a_batch_in_flight_that_is_answered_in_time_is_delivered(self, tmp_path: Path) -> None:
        sender = ScriptedSender()
        sender.open.clear()
        results: list[SpanExportResult] = []
        with spool(sender, tmp_path, exit_timeout=10.0) as exporter:
            waiting = threading.Thread(target=lambda: results.append(exporter.export(spans("a"))))
            waiting.start()
            assert sender.entered.wait(5)
            ending = threading.Thread(target=exporter.shutdown)
            ending.start()
            assert wait_until(lambda: exporter._courier._closing)
            sender.open.set()
            ending.join(5)
            waiting.join(5)
            assert results == [SUCCESS]
        assert sender.closed
        assert files(tmp_path) == set()

    def test_what_comes_after_it_is_spooled_for_the_next_process(self, tmp_path: Path) -> None:
        sender = ScriptedSender()
        with spool(sender, tmp_path) as exporter:
            exporter.shutdown()
            exporter.shutdown()
            assert exporter.export(spans("late")) is FAILURE
            assert exporter.spill(spans("later")) == 0
            assert counted(exporter) == {"taken": 2, "kept": 2, "spooled": 2}
            assert sender.given == []
            assert not exporter.force_flush(1_000)
        again = ScriptedSender()
        with spool(again, tmp_path) as exporter:
            assert wait_until(lambda: again.names == ["late", "later"])
            assert wait_until(lambda: exporter.spooled == 0)
            assert counted(exporter) == {"adopted": 2, "delivered": 2, "resent": 2}

    @pytest.mark.parametrize("end", [SpoolingSpanExporter.shutdown, lambda exporter: None])
    def test_it_can_be_collected_and_its_thread_ends(
        self, tmp_path: Path, end: Callable[[SpoolingSpanExporter], None]
    ) -> None:
        sender = ScriptedSender()
        exporter = SpoolingSpanExporter(sender, tmp_path, key="endpoint")
        exporter.export(spans("a"))
        thread, courier_ = exporter._courier._thread, weakref.ref(exporter._courier)
        gone = weakref.ref(exporter)
        end(exporter)
        del exporter
        gc.collect()
        assert gone() is None
        assert thread is not None
        thread.join(5)
        assert not thread.is_alive()
        del thread
        gc.collect()
        assert courier_() is None
        assert sender.closed

    def test_a_foreign_exporter_that_hangs_holds_nobody_up(self, tmp_path: Path) -> None:
        released = threading.Event()

        class Hanging(SpanExporter):
            def export(self, spans: Any) -> SpanExportResult:
                released.wait()
                return SUCCESS

            def shutdown(self) -> None:
                released.wait()

        with spool(Hanging(), tmp_path, timeout=0.1) as exporter:
            assert exporter.export(spans("a")) is FAILURE
            assert exporter.export(spans("b")) is FAILURE
            began = time.monotonic()
            exporter.shutdown()
            assert time.monotonic() - began < 2
            assert counted(exporter) == {"taken": 2, "kept": 2, "spooled": 2}
        released.set()

    @pytest.mark.usefixtures("for_ever")
    def test_its_timeout_bounds_the_wait_for_another_send(self, tmp_path: Path) -> None:
        sender = ScriptedSender()
        sender.open.clear()
        results: list[SpanExportResult] = []
        with spool(sender, tmp_path, timeout=0.1) as exporter:
            waiting = [
                threading.Thread(target=lambda name=name: results.append(exporter.export(spans(name)))) for name in "ab"
            ]
            for thread in waiting:
                thread.start()
            for thread in waiting:
                thread.join(5)
            assert results == [FAILURE, FAILURE]
            assert counted(exporter) == {"taken": 2, "kept": 2, "spooled": 2}


class TestLeftovers:
    @pytest.mark.usefixtures("for_ever")
    def test_the_next_one_with_the_same_key_sends_them_and_another_does_not(self, tmp_path: Path) -> None:
        with spool(ScriptedSender(default="unavailable"), tmp_path) as exporter:
            exporter.export(spans("a", "b"))
        stranger, heir = ScriptedSender(), ScriptedSender()
        with spool(stranger, tmp_path, key="another"), spool(heir, tmp_path) as exporter:
            assert wait_until(lambda: heir.names == ["a", "b"])
            assert wait_until(lambda: exporter.spooled == 0)
            assert counted(exporter) == {"adopted": 2, "delivered": 2, "resent": 2}
            assert exporter.force_flush(1_000)
        assert stranger.given == []
        assert files(tmp_path) == {"endpoint", "endpoint/about.json"}

    @pytest.mark.usefixtures("for_ever")
    def test_what_the_dead_leave_later_is_found_later(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(courier, "LOOK_S", 0.01)
        sender = ScriptedSender()
        with spool(sender, tmp_path) as exporter:
            with spool(ScriptedSender(default="unavailable"), tmp_path) as other:
                other.export(spans("a"))
                assert sender.given == []
            assert wait_until(lambda: exporter.counts.delivered == 1)
            assert counted(exporter) == {"adopted": 1, "delivered": 1, "resent": 1}

    @pytest.mark.usefixtures("for_ever")
    def test_a_flush_is_about_ones_own_spans(self, tmp_path: Path) -> None:
        with spool(ScriptedSender(default="unavailable"), tmp_path) as exporter:
            exporter.export(spans("a"))
        sender = ScriptedSender(default="unavailable")
        with spool(sender, tmp_path) as exporter:
            assert wait_until(lambda: exporter.counts.adopted == 1)
            assert exporter.force_flush(1_000)


def test_the_files_are_private_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with spool(ScriptedSender("unavailable"), tmp_path / "spool") as exporter:
            exporter.export(spans("a"))
            modes = {
                ("directory" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode))
                for path in (tmp_path / "spool", *(tmp_path / "spool").rglob("*"))
            }
        assert modes == {("directory", 0o700), ("file", 0o600)}
    finally:
        os.umask(before)


def test_spans_that_cannot_be_encoded_are_counted(tmp_path: Path) -> None:
    class Broken(ReadableSpan):
        @property
        def name(self) -> str:
            raise ZeroDivisionError

    sender = ScriptedSender()
    with spool(sender, tmp_path) as exporter:
        exporter.export([Broken("a"), *spans("b")])
        assert counted(exporter) == {"taken": 2, "delivered": 1, "dropped": {"encoding": 1}}
    assert sender.names == ["b"]
