"""Our span processor: the SDK's manners, and what becomes of spans that find no room, no taker or no time."""

from __future__ import annotations

import gc
import inspect
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.telemetry.processor import SpoolingBatchSpanProcessor
from otel_agentbus.telemetry.span_queue import SpanCounts
from otel_agentbus.testing import wait_until

from .exporting import FAILURE, SUCCESS, Scripted, Spooling, ended
from .receivers import forget_environment

NEVER = 1e9
Make = Callable[..., SpoolingBatchSpanProcessor]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes processors that export by themselves only full batches, and shuts them down."""
    made: list[SpoolingBatchSpanProcessor] = []

    def make(
        exporter: Any,
        queue: int | None = 100,
        batch: int | None = 10,
        delay: float | None = NEVER,
        **options: float,
    ) -> SpoolingBatchSpanProcessor:
        made.append(SpoolingBatchSpanProcessor(exporter, queue, delay, batch, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for processor in made:
        if isinstance(processor.span_exporter, Scripted):
            processor.span_exporter.release()
        processor.shutdown()


def end(processor: SpoolingBatchSpanProcessor, *names: int) -> None:
    for name in names:
        processor.on_end(ended(name))


def names(*numbers: int) -> list[str]:
    return [str(number) for number in numbers]


def counts(processor: SpoolingBatchSpanProcessor, **expected: object) -> SpanCounts:
    """These numbers, else none, and bytes as they are."""
    none = {"taken": 0, "exported": 0, "handed_over": 0, "failed": 0, "dropped": Counter(), "waiting": 0}
    return SpanCounts(**{**none, **expected}, queued_bytes=processor.queued_bytes)  # type: ignore[arg-type]


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("otel-agentbus-spans")]


def hold(processor: SpoolingBatchSpanProcessor, exporter: Scripted, batch: int = 10) -> None:
    """Have one full batch hang in the exporter."""
    exporter.hang()
    end(processor, *range(batch))
    assert exporter.entered.wait(5)


# --- a drop-in ---------------------------------------------------------------------------------------------------


def test_its_arguments_are_those_of_the_sdk_in_the_same_order() -> None:
    theirs = list(inspect.signature(BatchSpanProcessor).parameters.values())
    ours = list(inspect.signature(SpoolingBatchSpanProcessor).parameters.values())
    shape = [(argument.name, argument.kind, argument.default) for argument in theirs]
    assert [(argument.name, argument.kind, argument.default) for argument in ours][: len(shape)] == shape
    for method in ("on_start", "_on_ending", "on_end", "force_flush"):
        mine, sdks = getattr(SpoolingBatchSpanProcessor, method), getattr(BatchSpanProcessor, method)
        assert list(inspect.signature(mine).parameters) == list(inspect.signature(sdks).parameters)


@pytest.mark.parametrize(
    "arguments",
    [(0,), (-1,), (10, 0), (10, -5), (10, 1, 0), (10, 1, -1), (10, 1, 11), (100,), (None, None, 100_000)],
)
def test_it_refuses_what_the_sdk_refuses_in_the_same_words(arguments: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError) as theirs:
        BatchSpanProcessor(Scripted(), *arguments)
    with pytest.raises(ValueError) as ours:
        SpoolingBatchSpanProcessor(Scripted(), *arguments)
    assert str(ours.value) == str(theirs.value)


def test_a_bound_of_no_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="max_queue_bytes must be a positive integer"):
        SpoolingBatchSpanProcessor(Scripted(), max_queue_bytes=0)


def test_the_environment_decides_where_an_argument_is_none(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "6")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "86400000")
    exporter = Scripted()
    processor = make(exporter, None, None, None)
    end(processor, 1, 2, 3, 4)
    assert wait_until(lambda: exporter.delivered == names(1, 2, 3))
    exporter.hang()
    end(processor, 5, 6)
    assert exporter.entered.wait(5)
    end(processor, *range(10, 18))
    assert processor.counts == counts(processor, taken=14, exported=3, waiting=3 + 6, dropped=Counter(queue_full=2))


def test_a_wrong_variable_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    with pytest.raises(ConfigurationError, match="OTEL_BSP_MAX_QUEUE_SIZE"):
        SpoolingBatchSpanProcessor(Scripted())


def test_with_a_real_provider_spans_arrive_in_the_order_in_which_they_ended(make: Make) -> None:
    exporter = Scripted()
    processor = make(exporter)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("outer"):
        for number in range(25):
            tracer.start_span(str(number)).end()
    assert provider.force_flush()
    provider.shutdown()
    assert exporter.delivered == [*names(*range(25)), "outer"]
    assert processor.span_exporter is exporter
    assert exporter.calls[-1] == "shutdown"


def test_what_is_not_sampled_is_not_taken(make: Make) -> None:
    processor = make(Scripted())
    processor.on_end(ended("unsampled", sampled=False))
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("dropped").end()
    assert processor.counts == counts(processor)


def test_no_thread_runs_before_the_first_span_and_none_after_the_shutdown(make: Make) -> None:
    before = len(our_threads())
    exporter = Scripted()
    processor = make(exporter)
    assert processor.force_flush()
    assert len(our_threads()) == before
    end(processor, 1)
    assert len(our_threads()) == before + 2
    assert all(thread.daemon for thread in our_threads())
    processor.shutdown()
    assert wait_until(lambda: len(our_threads()) == before)
    assert exporter.delivered == names(1)


def test_one_that_never_saw_a_span_shuts_its_exporter_down(make: Make) -> None:
    exporter = Scripted()
    make(exporter).shutdown()
    assert exporter.calls == ["shutdown"]


def test_full_batches_go_at_once_and_the_rest_waits_for_the_delay(make: Make) -> None:
    exporter = Scripted()
    patient = make(exporter)
    end(patient, *range(25))
    assert wait_until(lambda: len(exporter.delivered) == 20)
    assert exporter.batches == [names(*range(10)), names(*range(10, 20))]
    assert patient.waiting == 5
    hasty = Scripted()
    end(make(hasty, delay=1), 1)
    assert wait_until(lambda: hasty.delivered == names(1))


def test_exports_run_in_one_thread_with_instrumentation_suppressed(make: Make) -> None:
    exporter = Spooling()
    processor = make(exporter)
    end(processor, *range(30))
    processor.force_flush()
    hold(processor, exporter)
    end(processor, *range(120))
    processor.shutdown(0.2)
    assert len(exporter.threads) == 1
    assert threading.current_thread() not in exporter.threads
    assert {"export", "force_flush", "spill", "sync", "shutdown"} == set(exporter.calls)
    assert exporter.suppressed == {True}


# --- no room -----------------------------------------------------------------------------------------------------


def test_over_the_bound_the_oldest_are_spilled_in_chunks(make: Make) -> None:
    exporter = Spooling()
    processor = make(exporter, queue=1_000, batch=10)
    hold(processor, exporter)
    end(processor, *range(10, 10 + 1_000))
    assert exporter.spilled == []
    end(processor, 2_000)
    assert exporter.spilled == [names(*range(10, 74)), names(74)]
    assert processor.counts == counts(processor, taken=1_011, handed_over=65, waiting=10 + 936)
    exporter.release()
    assert processor.force_flush() is False  # in the spool is not delivered
    assert exporter.delivered == names(*range(10), *range(75, 1_010), 2_000)


def test_without_a_spool_the_oldest_are_dropped_counted_and_warned_of_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = Scripted()
    processor = make(exporter, queue=20)
    hold(processor, exporter)
    with caplog.at_level(logging.WARNING, "otel_agentbus"):
        end(processor, *range(100, 150))
    assert [record.message for record in caplog.records] == [
        "the queue of spans is full and the exporter has no spool: the oldest are dropped"
    ]
    assert processor.counts == counts(processor, taken=60, waiting=30, dropped=Counter(queue_full=30))
    exporter.release()
    assert processor.force_flush() is False
    assert exporter.delivered == names(*range(10), *range(130, 150))


def test_a_spill_that_raises_is_a_counted_loss_and_nothing_to_the_agent(make: Make) -> None:
    exporter = Spooling()
    exporter.spilling = OSError("disk full")
    processor = make(exporter, queue=20)
    hold(processor, exporter)
    end(processor, *range(100, 121))
    assert processor.counts == counts(processor, taken=31, waiting=25, dropped=Counter(spill_failed=6))


def test_an_interrupt_in_a_spill_goes_through_and_what_it_was_to_spill_is_counted(make: Make) -> None:
    class Interrupted(Spooling):
        def spill(self, spans: object) -> int:
            raise KeyboardInterrupt

    exporter = Interrupted()
    processor = make(exporter, queue=20)
    hold(processor, exporter)
    with pytest.raises(KeyboardInterrupt):
        end(processor, *range(100, 121))
    assert processor.counts == counts(processor, taken=31, waiting=25, dropped=Counter(spill_failed=6))


def test_the_bound_of_bytes_holds_for_content_wherever_it_stands(make: Make) -> None:
    exporter = Spooling()
    processor = make(exporter, max_queue_bytes=100_000)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    hold(processor, exporter)
    for number in range(20):
        span = tracer.start_span(f"attribute {number}", attributes={"content": "x" * 12_000})
        span.end()
        assert processor.queued_bytes <= 100_000
    for number in range(20):
        span = tracer.start_span(f"event {number}")
        span.add_event("prompt", {"parts": ["y" * 6_000, "z" * 6_000]})
        span.end()
        assert processor.queued_bytes <= 100_000
    assert processor.taken == 50
    assert 25 <= processor.handed_over <= 35
    assert exporter.kept[:3] == ["attribute 0", "attribute 1", "attribute 2"]


def test_a_span_that_alone_is_over_the_bound_goes_straight_to_the_spool(make: Make) -> None:
    exporter = Spooling()
    processor = make(exporter, max_queue_bytes=10_000)
    end(processor, 1)
    processor.on_end(ended("large", content="x" * 20_000))
    assert exporter.spilled == [["1", "large"]]
    assert processor.counts == counts(processor, taken=2, handed_over=2)
    assert processor.queued_bytes == 0


def test_a_span_of_unknown_shape_is_taken_like_any_other(make: Make) -> None:
    exporter = Scripted()
    processor = make(exporter)
    strange = ended("strange")
    strange._events = 5  # type: ignore[assignment]
    processor.on_end(strange)
    assert processor.force_flush()
    assert exporter.delivered == ["strange"]


def test_on_end_does_not_wait_for_an_export_under_way(make: Make) -> None:
    exporter = Spooling()
    processor = make(exporter, queue=1_000)
    hold(processor, exporter)
    end(processor, *range(5_000))  # would never return otherwise
    assert len(exporter.batches) == 1


def test_a_burst_at_a_slow_exporter_arrives_whole_and_memory_stays_bounded() -> None:
    class Slow(Spooling):
        def export(self, spans: object) -> SpanExportResult:
            time.sleep(0.005)
            return super().export(spans)  # type: ignore[arg-type]

    exporter = Slow()
    processor = SpoolingBatchSpanProcessor(exporter, 1_000, NEVER, 100)
    most = [0] * 4

    def burst(thread: int) -> None:
        for number in range(5_000):
            processor.on_end(ended(f"{thread}-{number}"))
            most[thread] = max(most[thread], processor.waiting)

    threads = [threading.Thread(target=burst, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    processor.shutdown()
    assert sorted(exporter.delivered + exporter.kept) == sorted(f"{a}-{b}" for a in range(4) for b in range(5_000))
    assert max(most) <= 1_000 + 100 + 4 * 65
    assert processor.counts == counts(
        processor, taken=20_000, exported=len(exporter.delivered), handed_over=len(exporter.kept)
    )


# --- exporters that do not take ----------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [FAILURE, OSError("down"), None], ids=["failure", "raises", "says nothing"])
@pytest.mark.parametrize("kind", [Scripted, Spooling])
def test_what_is_not_taken_is_lost_or_is_the_spools(
    make: Make, kind: type[Scripted], answer: SpanExportResult | Exception | None
) -> None:
    exporter = kind(answer)
    processor = make(exporter)
    end(processor, 1, 2)
    assert processor.force_flush() is False
    where = "handed_over" if kind is Spooling else "failed"
    assert processor.counts == counts(processor, taken=2, **{where: 2})
    exporter.answer = SUCCESS
    end(processor, 3)
    assert processor.force_flush() is True
    assert exporter.delivered == names(3)


def test_an_exporter_may_empty_the_list_that_it_is_given(make: Make) -> None:
    class Emptying(Scripted):
        def export(self, spans: object) -> SpanExportResult:
            assert isinstance(spans, list)
            spans.clear()
            return SUCCESS

    processor = make(Emptying())
    end(processor, 1, 2)
    assert processor.force_flush()
    assert processor.counts == counts(processor, taken=2, exported=2)


def test_an_exporter_that_wants_to_end_the_program_ends_neither_the_worker_nor_the_program(make: Make) -> None:
    class Exiting(Scripted):
        def export(self, spans: object) -> SpanExportResult:
            super().export(spans)  # type: ignore[arg-type]
            raise SystemExit

    exporter = Exiting()
    processor = make(exporter)
    end(processor, 1)
    assert not processor.force_flush()
    end(processor, 2)
    assert not processor.force_flush()
    assert processor.counts == counts(processor, taken=2, failed=2)


# --- flush -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "answer", "flushed", "truth"),
    [
        (Scripted, SUCCESS, None, True),
        (Scripted, SUCCESS, True, True),
        (Scripted, SUCCESS, False, False),
        (Scripted, FAILURE, True, False),
        (Spooling, SUCCESS, False, False),
        (Spooling, FAILURE, None, False),
        (Spooling, FAILURE, False, False),
        (Spooling, FAILURE, True, True),  # it says that its spool is delivered
    ],
)
def test_flush_tells_the_truth(
    make: Make, kind: type[Scripted], answer: SpanExportResult, flushed: bool | None, truth: bool
) -> None:
    processor = make(kind(answer, flushed))
    end(processor, *range(35))
    assert processor.force_flush() is truth
    assert processor.waiting == 0


def test_what_was_lost_before_a_flush_is_told_by_the_next_one_once(make: Make) -> None:
    exporter = Scripted(FAILURE)
    processor = make(exporter)
    end(processor, *range(10))
    assert wait_until(lambda: processor.failed == 10)
    exporter.answer = SUCCESS
    assert [processor.force_flush(), processor.force_flush()] == [False, True]


def test_flush_keeps_to_its_time_and_the_worker_goes_on(make: Make) -> None:
    exporter = Scripted()
    processor = make(exporter)
    hold(processor, exporter)
    assert processor.force_flush(20) is False
    assert processor.force_flush(0) is False
    assert processor.force_flush(-1) is False
    exporter.release()
    assert processor.force_flush() is True
    assert exporter.delivered == names(*range(10))


def test_flushes_from_many_threads_are_all_answered(make: Make) -> None:
    exporter = Scripted()
    processor = make(exporter)
    answers: list[bool] = []

    def work(thread: int) -> None:
        for number in range(50):
            processor.on_end(ended(f"{thread}-{number}"))
            answers.append(processor.force_flush())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 200
    assert len(exporter.delivered) == 200


def test_flush_and_shutdown_from_within_an_export_do_not_wait_for_themselves(make: Make) -> None:
    answers: list[bool] = []

    class Meddling(Spooling):
        def export(self, spans: object) -> SpanExportResult:
            answers.append(processor.force_flush())
            processor.shutdown()
            return super().export(spans)  # type: ignore[arg-type]

        def shutdown(self) -> None:
            answers.append(processor.force_flush())
            processor.shutdown()
            super().shutdown()

    exporter = Meddling()
    processor = make(exporter)
    end(processor, *range(10))
    assert wait_until(lambda: "shutdown" in exporter.calls)
    assert answers == [False, False]
    assert exporter.delivered == names(*range(10))
    assert processor.counts == counts(processor, taken=10, exported=10)  # nothing was taken away from the export


# --- the end -----------------------------------------------------------------------------------------------------


def test_shutdown_exports_what_is_queued_and_takes_no_more(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    exporter = Spooling()
    processor = make(exporter)
    end(processor, 1, 2, 3)
    processor.shutdown()
    with caplog.at_level(logging.WARNING, "otel_agentbus"):
        end(processor, 4, 5)
    processor.shutdown()
    assert processor.force_flush() is False
    assert exporter.delivered == names(1, 2, 3)
    assert exporter.calls == ["export", "shutdown"]
    assert [record.message for record in caplog.records] == ["spans that end after the shutdown are dropped"]
    assert processor.counts == counts(processor, taken=5, exported=3, dropped=Counter(already_shutdown=2))


def test_where_an_export_hangs_the_batch_in_flight_and_the_queue_are_spilled_and_synced(make: Make) -> None:
    exporter = Spooling()
    processor = make(exporter)
    hold(processor, exporter)
    end(processor, *range(10, 90))
    processor.shutdown(0.5)
    assert exporter.kept == names(*range(90))
    assert exporter.spilled == [names(*range(first, first + 10)) for first in range(0, 90, 10)]  # as they were to go
    assert exporter.calls == ["export", *["spill"] * 9, "sync", "shutdown"]
    assert processor.counts == counts(processor, taken=90, handed_over=90)
    exporter.release()
    assert wait_until(lambda: our_threads() == [])
    assert exporter.calls[-1] == "shutdown"  # nothing is exported any more
    assert processor.counts == counts(processor, taken=90, handed_over=90)


def test_where_an_export_hangs_and_there_is_no_spool_all_is_counted_as_lost(make: Make) -> None:
    exporter = Scripted()
    processor = make(exporter)
    hold(processor, exporter)
    end(processor, *range(10, 90))
    processor.shutdown(0.4)
    assert processor.counts == counts(processor, taken=90, dropped=Counter(exit_timeout=90))
    assert exporter.calls == ["export", "shutdown"]
    exporter.release()
    assert wait_until(lambda: our_threads() == [])
    assert processor.counts == counts(processor, taken=90, dropped=Counter(exit_timeout=90))
    assert exporter.calls == ["export", "shutdown"]


class Stuck(Spooling):
    """Comes back from nothing until it is released."""

    def spill(self, spans: object) -> int:
        self._free.wait(30)
        return super().spill(spans)  # type: ignore[arg-type]

    def sync(self) -> None:
        self._free.wait(30)
        super().sync()

    def shutdown(self) -> None:
        self._free.wait(30)
        super().shutdown()


def test_shutdown_ends_in_time_where_nothing_of_the_exporter_comes_back(make: Make) -> None:
    exporter = Stuck()
    processor = make(exporter)
    hold(processor, exporter)
    end(processor, 10, 11)
    began = time.monotonic()
    processor.shutdown(0.5)
    assert time.monotonic() - began < 5  # and not 30
    assert processor.counts == counts(processor, taken=12, waiting=12)
    exporter.release()  # a spool that was slow is not cut short
    assert wait_until(lambda: "shutdown" in exporter.calls)
    assert processor.counts == counts(processor, taken=12, handed_over=12)
    assert exporter.kept == names(*range(12))


def test_a_spill_of_another_thread_is_waited_for_before_the_exporter_is_shut_down(make: Make) -> None:
    entered, gate = threading.Event(), threading.Event()

    class Slow(Spooling):
        def spill(self, spans: Sequence[ReadableSpan]) -> int:
            entered.set()
            gate.wait(5)
            return super().spill(spans)

    exporter = Slow()
    processor = make(exporter, queue=10)
    hold(processor, exporter)
    spilling = threading.Thread(target=end, args=(processor, *range(11)))
    spilling.start()
    assert entered.wait(5)
    exporter.release()
    shutting_down = threading.Thread(target=processor.shutdown, args=(5,))
    shutting_down.start()
    assert not wait_until(lambda: "shutdown" in exporter.calls, 0.1)
    gate.set()
    shutting_down.join(5)
    spilling.join(5)
    assert exporter.calls[-3:] == ["spill", "sync", "shutdown"]
    assert processor.counts == counts(processor, taken=21, exported=18, handed_over=3)


def test_who_waits_in_a_flush_is_released_by_the_shutdown(make: Make) -> None:
    exporter = Scripted()
    processor = make(exporter)
    hold(processor, exporter)
    answers: list[bool] = []
    flushing = threading.Thread(target=lambda: answers.append(processor.force_flush(600_000)))
    flushing.start()
    assert wait_until(lambda: bool(processor._crew.flushes))
    processor.shutdown(0.1)
    flushing.join(5)
    assert answers == [False]


def test_an_exporters_own_shutdown_is_not_waited_for_either(make: Make) -> None:
    class Lingering(Scripted):
        def shutdown(self) -> None:
            self._free.wait(30)

    exporter = Lingering()
    for spans in (0, 1):
        processor = make(exporter)
        exporter.release()
        end(processor, *range(spans))
        assert processor.force_flush()
        exporter.hang()
        began = time.monotonic()
        processor.shutdown()
        assert time.monotonic() - began < 5


def test_shutdowns_flushes_and_spans_from_many_threads_at_once_lose_nothing(make: Make) -> None:
    for _ in range(20):
        exporter = Spooling()
        processor = make(exporter, queue=50)
        start = threading.Barrier(6)

        def work(processor: SpoolingBatchSpanProcessor = processor, start: threading.Barrier = start) -> None:
            start.wait()
            end(processor, *range(100))

        def finish(processor: SpoolingBatchSpanProcessor = processor, start: threading.Barrier = start) -> None:
            start.wait()
            processor.force_flush(100)
            processor.shutdown()

        threads = [threading.Thread(target=target) for target in (work, finish) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wait_until(lambda exporter=exporter: "shutdown" in exporter.calls)  # type: ignore[misc]
        refused = processor.dropped["already_shutdown"]
        assert processor.counts == counts(
            processor,
            taken=300,
            exported=len(exporter.delivered),
            handed_over=len(exporter.kept),
            dropped=Counter(already_shutdown=refused) if refused else Counter(),
        )
        assert exporter.calls.count("shutdown") == 1


def test_an_exporter_that_takes_a_time_for_its_shutdown_is_given_one() -> None:
    class Timed(Scripted):
        given: float | None = None

        def shutdown(self, timeout_millis: float = 30_000) -> None:
            self.given = timeout_millis

    exporter = Timed()
    processor = SpoolingBatchSpanProcessor(exporter)
    processor.shutdown()
    assert exporter.given == 250


@pytest.mark.parametrize("kind", [Scripted, Spooling])
def test_where_no_thread_can_be_started_spans_are_kept_and_handed_over_by_the_shutdown(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: type[Scripted]
) -> None:
    exporter = kind()
    processor = make(exporter)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    end(processor, *range(25))
    assert processor.waiting == 25
    assert processor.force_flush() is False
    processor.shutdown()
    monkeypatch.undo()
    where = "handed_over" if kind is Spooling else "exported"
    assert processor.counts == counts(processor, taken=25, **{where: 25})
    assert (exporter.kept if isinstance(exporter, Spooling) else exporter.delivered) == names(*range(25))
    assert exporter.calls[-1] == "shutdown"


def test_it_is_collected_after_its_shutdown() -> None:
    processor = SpoolingBatchSpanProcessor(Spooling())
    end(processor, *range(10))
    processor.shutdown()
    assert wait_until(lambda: our_threads() == [])
    gone = weakref.ref(processor)
    del processor
    gc.collect()
    assert gone() is None


def test_a_span_that_ends_while_another_is_exported_is_taken(make: Make) -> None:
    class Ending(Scripted):
        def export(self, spans: object) -> SpanExportResult:
            if len(self.batches) < 3:
                end(processor, 100 + len(self.batches))
            return super().export(spans)  # type: ignore[arg-type]

    exporter = Ending()
    processor = make(exporter, batch=1)
    end(processor, 1)
    assert wait_until(lambda: exporter.delivered == names(1, 100, 101, 102))


def test_spans_that_end_in_destructors_at_any_moment_are_taken(make: Make) -> None:
    exporter = Spooling()
    processor = make(exporter, queue=50)
    made = [0]

    class Ending:
        def __init__(self) -> None:
            self.itself = self  # only the garbage collector ends it, wherever it happens to run

        def __del__(self) -> None:
            made[0] += 1
            processor.on_end(ended("destroyed"))

    before = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for number in range(2_000):
            Ending()
            end(processor, number)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    processor.shutdown()
    assert made == [2_000]
    assert Counter(exporter.delivered + exporter.kept)["destroyed"] == 2_000
    assert processor.counts == counts(
        processor, taken=4_000, exported=len(exporter.delivered), handed_over=len(exporter.kept)
    )


def test_an_exporter_needs_no_more_than_an_export(make: Make) -> None:
    class Bare:
        def export(self, spans: object) -> SpanExportResult:
            return SUCCESS

    processor = make(Bare())
    end(processor, 1)
    assert processor.force_flush()
    processor.shutdown()
    assert processor.counts == counts(processor, taken=1, exported=1)


def test_an_exporter_whose_every_method_raises_is_still_shut_down_in_time(make: Make) -> None:
    class Broken(Spooling):
        def export(self, spans: object) -> SpanExportResult:
            super().export(spans)  # type: ignore[arg-type]
            raise SystemExit

        def spill(self, spans: object) -> int:
            raise SystemExit

        def sync(self) -> None:
            raise SystemExit

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            raise SystemExit

        def shutdown(self) -> None:
            super().shutdown()
            raise SystemExit

    exporter = Broken()
    processor = make(exporter)
    end(processor, *range(10))
    assert wait_until(lambda: processor.handed_over == 10)
    assert processor.force_flush() is False
    hold(processor, exporter)
    end(processor, 1, 2)
    processor.shutdown(0.3)
    assert wait_until(lambda: exporter.calls[-1] == "shutdown")
    assert processor.counts == counts(processor, taken=22, handed_over=10, dropped=Counter(spill_failed=12))
