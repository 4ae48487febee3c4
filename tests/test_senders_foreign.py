"""Somebody else's exporter as a sender: success, failure, an exception, or nothing in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from opentelemetry import context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_agentbus.telemetry.otlp import Batch
from otel_agentbus.telemetry.senders.foreign import ForeignSender
from otel_agentbus.telemetry.senders.verdict import Sender, Verdict
from otel_agentbus.testing import wait_until
from tests.sending import batch, closing


class _Exporter(SpanExporter):
    """Does with every batch what it is told."""

    def __init__(self, act: Callable[[], SpanExportResult]) -> None:
        self.act = act
        self.exported: list[list[str]] = []
        self.suppressed: list[object] = []
        self.ended = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.exported.append([span.name for span in spans])
        self.suppressed.append(context.get_value("suppress_instrumentation"))
        return self.act()

    def shutdown(self) -> None:
        self.ended += 1


def _raises(error: BaseException) -> Callable[[], SpanExportResult]:
    def act() -> SpanExportResult:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "verdict"),
    [
        (lambda: SpanExportResult.SUCCESS, Verdict("delivered")),
        (lambda: SpanExportResult.FAILURE, Verdict("unavailable", message="_Exporter reports a failure")),
        (lambda: None, Verdict("unavailable", message="_Exporter reports a failure")),
        (_raises(ConnectionError("gone")), Verdict("unavailable", message="ConnectionError: gone")),
        (_raises(TypeError("what?")), Verdict("failed", message="TypeError: what?")),
        (_raises(SystemExit(3)), Verdict("failed", message="RuntimeError: SystemExit: 3")),
    ],
)
def test_what_an_exporter_says_and_that_it_is_asked_once(act: Callable[[], SpanExportResult], verdict: Verdict) -> None:
    exporter = _Exporter(act)
    with closing(ForeignSender(exporter, 10)) as sender:
        assert sender.send(Batch(data=batch("one", "two").data)) == verdict
        assert isinstance(sender, Sender)
    assert (exporter.exported, exporter.suppressed, exporter.ended) == ([["one", "two"]], [True], 1)


def test_an_exporter_that_hangs_is_waited_for_up_to_the_timeout_and_is_not_called_again_meanwhile() -> None:
    go_on = threading.Event()

    def hang() -> SpanExportResult:
        go_on.wait()
        return SpanExportResult.SUCCESS

    exporter = _Exporter(hang)
    with closing(ForeignSender(exporter, 0.05)) as sender:
        assert sender.send(batch("one")) == Verdict("unavailable", message="no complete answer within 0.05 s")
        assert sender.send(batch("two")) == Verdict(
            "unavailable", message="the attempt before this one is still under way"
        )
        assert exporter.exported == [["one"]]
        go_on.set()
        wait_until(lambda: sender.send(batch("three")).delivered)
    assert exporter.exported[-1] == ["three"]


def test_shutdown_frees_the_one_who_waits_and_ends_the_thread() -> None:
    go_on, verdicts = threading.Event(), list[Verdict]()

    def hang() -> SpanExportResult:
        go_on.wait()
        return SpanExportResult.SUCCESS

    exporter = _Exporter(hang)
    sender = ForeignSender(exporter, 300)
    thread = threading.Thread(target=lambda: verdicts.append(sender.send(batch())))
    thread.start()
    wait_until(lambda: len(exporter.exported) == 1)
    sender.shutdown()
    thread.join(30)
    assert verdicts == [Verdict("unavailable", message="closed")]
    assert sender.send(batch()) == Verdict("unavailable", message="closed")
    go_on.set()
    wait_until(lambda: not any(one.name == "agentbus-_Exporter" for one in threading.enumerate()))


def test_an_exporter_that_cannot_be_shut_down_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(_Exporter):
        def shutdown(self) -> None:
            raise RuntimeError("stuck")

    ForeignSender(Stuck(lambda: SpanExportResult.SUCCESS), 10).shutdown()
    assert [record.getMessage() for record in caplog.records] == ["Stuck could not be shut down"]


def test_a_renewed_sender_sends_in_a_new_thread() -> None:
    threads: list[int] = []

    def tell() -> SpanExportResult:
        threads.append(threading.get_ident())
        return SpanExportResult.SUCCESS

    with closing(ForeignSender(_Exporter(tell), 10)) as sender:
        assert sender.send(batch()).delivered
        assert sender.send(batch()).delivered
        assert threads[0] == threads[1] != threading.get_ident()
        sender.renew()
        assert sender.send(batch()).delivered
    assert len(threads) == 3
