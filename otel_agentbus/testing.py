"""For the tests of programs that use this package: capture what they emit, look at the tree, turn the clock.

Times are exact with a `FakeClock`; without one, the tree is what can be compared.

    with testing.capture() as seen:
        run_my_agent()
    seen.assert_tree('''
        invoke_agent planner
        ├─ chat gpt-5-mini
        └─ execute_tool search
    ''')
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler

from .accounting import Accounting
from .attachment import Attached, process
from .blocks import clock, install, installed
from .budgets import Budget
from .bus import Bus
from .events import Event
from .router import Subscription
from .runtime import Runtime
from .settings import Settings
from .telemetry.deployment_metrics import CommitTimes
from .telemetry.providers import build

#: The resource of captured spans: the same in every process, so that whole spans can be compared.
RESOURCE = Resource({"service.name": "test"})


class FakeClock:
    """A clock that stands still until it is told: times and durations of blocks are then exact."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self.now_ns = start_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += round(seconds * 1e9)

    def __call__(self) -> int:
        return self.now_ns


class Captured:
    """What a program emitted while it was captured."""

    def __init__(self, bus: Bus, exporter: InMemorySpanExporter, reader: InMemoryMetricReader) -> None:
        self.bus = bus
        self.events: list[Event] = []
        self.failures: list[tuple[Subscription, Event, BaseException]] = []
        self._exporter = exporter
        self._reader = reader

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The spans that have ended so far, in the order of their ends."""
        self.bus.flush()
        return self._exporter.get_finished_spans()

    def span(self, name: str) -> ReadableSpan:
        """The one span of that name."""
        found = [span for span in self.spans if span.name == name]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} spans are named {name!r}; there are {[s.name for s in self.spans]}")
        return found[0]

    def metric(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """The points of one metric by their sorted attributes: a sum's value, or a histogram's (count, sum)."""
        self.bus.flush()
        points: dict[tuple[tuple[str, Any], ...], Any] = {}
        data = self._reader.get_metrics_data()
        for resource_metrics in data.resource_metrics if data is not None else ():
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    if metric.name == name:
                        for point in metric.data.data_points:
                            key = tuple(sorted((point.attributes or {}).items()))
                            value = getattr(point, "value", None)
                            points[key] = (
                                (getattr(point, "count", 0), getattr(point, "sum", 0)) if value is None else value
                            )
        return points

    def tree(self) -> str:
        """The spans as a drawn tree, children by the time they began."""
        return draw(self.spans)

    def assert_tree(self, expected: str) -> None:
        """Compare the drawn tree with the expected one, however that is indented."""
        want = textwrap.dedent(expected).strip()
        got = self.tree()
        if got != want:
            raise AssertionError(f"The trees differ. Expected:\n{want}\nGot:\n{got}")


def draw(spans: Sequence[ReadableSpan]) -> str:
    """Spans as a drawn tree; roots are those whose parent is not among them."""
    ids = {span.context.span_id for span in spans if span.context is not None}
    children: dict[int | None, list[ReadableSpan]] = {}
    for span in sorted(spans, key=lambda s: (s.start_time or 0, s.name)):
        parent = span.parent.span_id if span.parent is not None and span.parent.span_id in ids else None
        children.setdefault(parent, []).append(span)

    def lines(span: ReadableSpan, lead: str, below: str) -> Iterator[str]:
        yield lead + span.name
        inner = children.get(span.context.span_id if span.context is not None else -1, [])
        for child in inner:
            last = child is inner[-1]
            yield from lines(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))

    return "\n".join(line for root in children.get(None, []) for line in lines(root, "", ""))


@contextmanager
def capture(
    *,
    strict: bool = True,
    sampler: Sampler | None = None,
    fake_clock: FakeClock | None = None,
    redact: Callable[[str, Any], Any] | None = None,
    budgets: Iterable[Budget] | str | None = None,
    commit_times: CommitTimes | None = None,
    **settings: Any,
) -> Iterator[Captured]:
    """Observe everything that is emitted inside, in memory, instead of whatever bus is connected.

    Events are validated. With `strict`, a failing handler or an invalid event raises at the end of the block. `budgets`
    (or the path of their file) hold from the first call on: the price list is loaded before. Further keywords are
    `Settings` by name (`capture_content="SPAN_ONLY"`).
    """
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider = TracerProvider(sampler=sampler or DEFAULT_ON, resource=RESOURCE, shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    meter_provider = MeterProvider([reader], resource=RESOURCE, shutdown_on_exit=False)
    path = budgets if isinstance(budgets, str) else None
    chosen = Settings(**{"validate_events": True, "summary": False, "budgets": path, **settings})
    pipeline = build(chosen, tracer_provider=tracer_provider, meter_provider=meter_provider, set_global=False)
    failures: list[tuple[Subscription, Event, BaseException]] = []
    bus = Bus(
        chosen,
        pipeline,
        Accounting(chosen, None if isinstance(budgets, str) else budgets),
        redact=redact,
        on_error=lambda *failure: failures.append(failure),
        commit_times=commit_times,
    )
    if budgets is not None:
        bus.accounting.prices.load()
    captured = Captured(bus, exporter, reader)
    captured.failures = failures
    bus.subscribe(captured.events.append, priority=-1_000_001)
    before, before_clock = (process.bus, installed()), (clock.time_ns, clock.perf_counter_ns)
    process.attach(bus)
    if fake_clock is not None:
        clock.time_ns = clock.perf_counter_ns = fake_clock
    try:
        yield captured
    finally:
        clock.time_ns, clock.perf_counter_ns = before_clock
        bus.uses = 1
        bus.close(5.0)
        _restore(*before)
    if strict and (failures or bus.counts["invalid"]):
        raise AssertionError(
            f"{len(failures)} handlers failed ({failures[:1]}), {bus.counts['invalid']} invalid events"
        )


def _restore(attached: Attached | None, runtime: Runtime | None) -> None:
    process.bus = attached
    install(runtime)
    if attached is not None:
        process.close_at_exit(attached)  # as `attach` has arranged for the captured bus only


def wait_until(condition: Callable[[], bool], timeout: float = 5.0) -> bool:
    """Wait for something that happens in the background; whether it did."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


__all__ = ["Captured", "FakeClock", "capture", "draw", "wait_until"]
