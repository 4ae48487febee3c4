"""What production does to delivery: exporters side by side, odd directories, ways that hang, batches of poison."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.processor import SpoolingBatchSpanProcessor
from otel_agentbus.telemetry.providers import Pipeline
from otel_agentbus.telemetry.spool import SpoolingSpanExporter, spools
from otel_agentbus.telemetry.ways import FLUSH_SHARE, SpanWay
from otel_agentbus.testing import wait_until
from tests.receivers import in_a_process_of_its_own
from tests.spooling import ScriptedSender, at_once, spans, spool

__all__ = ["at_once"]


class HeldAtTheDoor(SpoolingSpanExporter):
    """Its `export()` has an answer, and does not return with it before it may."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.answered, self.may_return = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self.answered.set()
        self.may_return.wait()
        return result


class HeldBefore(HeldAtTheDoor):
    """It is called, and the exporter does not hear of it before it may."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.answered.set()
        self.may_return.wait()
        return SpoolingSpanExporter.export(self, spans)


@pytest.mark.parametrize("kind", [HeldAtTheDoor, HeldBefore])
def test_a_batch_that_is_given_up_while_its_export_begins_or_ends_is_accounted_for_once(
    tmp_path: Path, kind: type[HeldAtTheDoor]
) -> None:
    sender = ScriptedSender()
    exporter = kind(sender, tmp_path, key="endpoint")
    processor = SpoolingBatchSpanProcessor(exporter, 10, schedule_delay_millis=1, max_export_batch_size=5)
    for span in spans("a", "b", "c"):
        processor.on_end(span)
    worker = [each for each in threading.enumerate() if each.name == "otel-agentbus-spans-worker"]
    exporter.answered.wait()
    processor.shutdown(0.5)
    exporter.may_return.set()
    for thread in worker:
        thread.join(10)
    assert (processor.counts.handed_over, processor.waiting) == (3, 0)
    counts = exporter.counts
    assert (counts.taken, counts.delivered + counts.spooled, counts.balanced) == (3, 3, True)
    assert sender.names == ["a", "b", "c"][: counts.delivered]


def test_exporters_that_spill_for_the_first_time_at_once_lose_nothing(tmp_path: Path) -> None:
    for turn in range(20):
        exporters = [
            SpoolingSpanExporter(ScriptedSender(default="unavailable"), tmp_path / str(turn), key="endpoint")
            for _ in range(4)
        ]
        barrier = threading.Barrier(len(exporters))

        def spill(exporter: SpoolingSpanExporter, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            exporter.spill(spans("a"))

        threads = [threading.Thread(target=spill, args=(exporter,)) for exporter in exporters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [exporter.counts.kept for exporter in exporters] == [1, 1, 1, 1]
        for exporter in exporters:
            exporter.shutdown()
        [found] = spools(tmp_path / str(turn))
        assert found.about is not None
        assert found.waiting == 4
        assert [each.name for each in found.path.glob("about.json*")] == ["about.json"]


def test_that_a_directory_cannot_be_described_costs_no_span(tmp_path: Path) -> None:
    (tmp_path / "endpoint").mkdir()
    (tmp_path / "endpoint" / "about.json").symlink_to("about.json")  # neither there nor to be replaced by a check
    with spool(ScriptedSender(default="unavailable"), tmp_path) as exporter:
        assert exporter.spill(spans("a")) == 0
        assert exporter.counts.kept == 1


def test_a_program_that_changes_its_directory_finds_its_spool_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with spool(ScriptedSender("refused", default="unavailable"), Path("relative")) as exporter:
        os.chdir(elsewhere)
        exporter.export(spans("refused"))
        exporter.spill(spans("a"))
    exporter.spill(spans("late"))
    [found] = spools(tmp_path / "relative")
    assert (found.waiting, found.dead_letters, found.about is not None) == (2, 1, True)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.usefixtures("at_once")
def test_where_the_directory_is_read_only_a_little_waits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # as a file system says to root, too
    sender = ScriptedSender("unavailable", "unavailable")
    with spool(sender, tmp_path / "state" / "spool") as exporter:
        assert exporter.export(spans("a")) is SpanExportResult.FAILURE
        wait_until(lambda: exporter.spooled == 0)
        assert (sender.names, exporter.counts.balanced) == (["a"], True)
        sender.default = "unavailable"
        exporter.export(spans("b", "c"))
    assert exporter.counts.dropped == {"spool_off": 2}
    assert exporter.counts.balanced
    assert list(tmp_path.iterdir()) == []
    assert sum("is read-only" in message for message in caplog.messages) == 1


def test_of_a_batch_that_is_larger_than_the_spool_a_part_is_kept(tmp_path: Path) -> None:
    with spool(ScriptedSender(default="unavailable"), tmp_path, max_bytes=100_000) as exporter:
        assert exporter.spill(spans(*["x" * 1_000] * 60, "y" * 200_000, *["x" * 1_000] * 67)) < 128
        counts = exporter.counts
        assert counts.balanced
        assert counts.spooled > 0
        assert counts.spooled + counts.dropped["spool_full"] == 128


@pytest.fixture
def forbidding_umask() -> Iterator[None]:
    before = os.umask(0o777)
    yield
    os.umask(before)


def test_whatever_the_umask_the_owner_can_read_what_is_kept(tmp_path: Path, forbidding_umask: None) -> None:
    with spool(ScriptedSender("refused", default="unavailable"), tmp_path / "new") as exporter:
        exporter.export(spans("refused"))
        exporter.spill(spans("a"))
    modes = {path.name.rpartition(".")[2]: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.*")}
    assert modes == {"jsonl": 0o600, "json": 0o600, "lock": 0o600, "seg": 0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new", tmp_path / "new/endpoint")} == {0o700}


class Picky(SpanExporter):
    """Somebody else's exporter, which says of a batch that it does not like no more than that it has failed."""

    def __init__(self) -> None:
        self.up = True
        self.names: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not self.up or any(span.name == "poison" for span in spans):
            return SpanExportResult.FAILURE
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS


@pytest.mark.usefixtures("at_once")
def test_a_batch_that_a_foreign_exporter_never_takes_holds_up_the_others_only_for_a_while(tmp_path: Path) -> None:
    inner = Picky()
    with spool(inner, tmp_path) as exporter:
        exporter.export(spans("poison"))
        sent = 0
        while not exporter.counts.dead_lettered and sent < 1_000:
            exporter.export(spans(f"{sent}"))
            sent += 1
            time.sleep(0.002)
        wait_until(lambda: exporter.spooled == 0)
        assert exporter.counts.dead_lettered == 1
        assert sorted(inner.names) == sorted(str(number) for number in range(sent))


@pytest.mark.usefixtures("at_once")
def test_a_foreign_exporter_that_takes_nothing_for_long_loses_nothing(tmp_path: Path) -> None:
    inner = Picky()
    inner.up = False
    with spool(inner, tmp_path) as exporter:
        for number in range(50):
            exporter.export(spans(f"{number}"))
            time.sleep(0.002)
        inner.up = True
        assert exporter.force_flush(10_000)
        assert sorted(inner.names) == sorted(str(number) for number in range(50))


@dataclass
class Way:
    """A way out that only notes until when it may take its time."""

    given: list[float] = field(default_factory=list)

    def close(self, deadline: float) -> bool:
        self.given.append(deadline)
        return False

    flush = close


@pytest.mark.parametrize("ask", ["flush_spans", "close_spans"])
def test_a_way_out_that_hangs_leaves_the_others_their_part_of_the_time(ask: str) -> None:
    first, second = Way(), Way()
    pipeline = Pipeline(Settings(), ways=cast("Any", [first, second]))
    deadline = time.monotonic() + 1_000
    assert not getattr(pipeline, ask)(deadline)
    assert first.given[0] < deadline - 499
    assert second.given[0] == pytest.approx(deadline, abs=0.001)


@dataclass
class Waiting:
    """A processor with so much to spill that it takes a part of the time."""

    spilling_s: float
    flushed: list[float] = field(default_factory=list)

    def force_flush(self, timeout_millis: int) -> bool:
        self.flushed.append(timeout_millis)
        return False

    def shutdown(self, timeout: float) -> None:
        """Nothing to do."""


@pytest.mark.parametrize(("spilling_s", "share"), [(0.0, FLUSH_SHARE), (100.0, FLUSH_SHARE), (600.0, 0.4), (2e3, 0.0)])
def test_waiting_for_an_endpoint_at_the_end_leaves_time_to_spill_what_waits(spilling_s: float, share: float) -> None:
    processor = Waiting(spilling_s)
    way = SpanWay("otlp", "nowhere", cast("Any", processor), cast("Any", None))
    way.close(time.monotonic() + 1_000)
    assert processor.flushed[0] == pytest.approx(share * 1_000_000, abs=50_000)


_FORK = """
    import json, os, signal, sys, threading, time
    import otel_agentbus as ab

    ab.connect().close()  # hears of forks from here on; in the second round before the parts of a pipeline are loaded
    os.environ.update(json.loads(os.environ["LATER"]))
    bus = ab.connect(set_global=True)
    with ab.agent("a"):
        pass
    way = bus._outlet.pipeline.ways[0]
    locks = [way.processor._queue._lock, way.out._courier._changed, way.out._store._lock]
    may_end, held = threading.Event(), threading.Event()

    def hold():
        for lock in locks:
            lock.acquire()
        held.set()
        may_end.wait()
        for lock in reversed(locks):
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # the default ends it
        with ab.agent("b"):
            pass
        ab.connect().flush(0.1)
        os._exit(4 if any(bus.health()["balance"].values()) else 3)
    may_end.set()
    thread.join()
    status = os.waitpid(child, 0)[1]
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("at_first", [True, False])
def test_a_child_that_is_forked_while_spans_are_queued_stored_and_sent_does_not_hang(
    tmp_path: Path, at_first: bool
) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_METRICS_EXPORTER": "none",
        "AGENTBUS_SPOOL_DIR": str(tmp_path),
    }
    now, later = (variables, {}) if at_first else ({}, variables)
    assert in_a_process_of_its_own(_FORK, LATER=json.dumps(later), **now) == 3


def test_a_directory_that_one_may_not_look_into_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def forbidden(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path}/secret/"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    (tmp_path / "secret").mkdir()
    monkeypatch.setattr(os, "stat", forbidden)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "secret")
    with spool(ScriptedSender(), tmp_path / "secret" / "state") as exporter:
        assert exporter.export(spans("a")) is SpanExportResult.SUCCESS
