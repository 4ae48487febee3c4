"""Our span processor at the end of a process and across a fork, in processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from .receivers import in_a_process_of_its_own

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

#: An exporter whose spool is a file, and who may hang.
EXPORTER = """
import atexit, json, os, sys, threading, time
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from otel_agentbus.telemetry.processor import SpoolingBatchSpanProcessor

class Exporter(SpanExporter):
    def __init__(self, path, hangs=False):
        self.path, self.hangs, self.entered = path, hangs, threading.Event()
    def keep(self, how, spans):
        with open(self.path, "a") as file:
            file.write("".join(f"{how} {os.getpid()} {span.name}\\n" for span in spans))
    def export(self, spans):
        self.entered.set()
        if self.hangs:
            time.sleep(60)
        self.keep("exported", spans)
        return SpanExportResult.SUCCESS
    def shutdown(self):
        if self.hangs:
            time.sleep(60)

class Spooling(Exporter):
    def spill(self, spans):
        self.keep("spilled", spans)
        return 0
    def sync(self):
        self.keep("synced", [])

def provider_of(processor):
    provider = TracerProvider()
    provider.add_span_processor(processor)
    return provider

def end(provider, *names):
    for name in names:
        provider.get_tracer("test").start_span(str(name)).end()
"""


def run(code: str, path: Path) -> tuple[Any, list[str]]:
    """What the process says last, and the lines that its exporter wrote."""
    said = in_a_process_of_its_own(EXPORTER + code, FILE=str(path))
    return said, path.read_text().splitlines() if path.exists() else []


def without_pid(lines: list[str]) -> list[str]:
    return [" ".join(line.split()[::2]) for line in lines]


def test_exit_with_a_hanging_exporter_spills_all_and_ends_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    said, lines = run(
        """
exporter = Spooling(os.environ["FILE"], hangs=True)
provider = provider_of(SpoolingBatchSpanProcessor(exporter, 1_000, 1e9, 10))
end(provider, *range(500))
exporter.entered.wait()
print(json.dumps("left"))
""",
        tmp_path / "spool",
    )
    assert time.monotonic() - began < 20  # not the 60 s of the export: the starting of the process is in it
    assert said == "left"
    assert without_pid(lines) == [f"spilled {number}" for number in range(500)]


def test_the_exit_of_a_hanging_exporter_takes_no_longer_than_told(tmp_path: Path) -> None:
    said, _lines = run(
        """
exporter = Spooling(os.environ["FILE"], hangs=True)
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SpoolingBatchSpanProcessor(exporter, 1_000, 1e9, 10))
end(provider, *range(500))
exporter.entered.wait()
def leave():
    began = time.monotonic()
    provider.shutdown()
    print(json.dumps(time.monotonic() - began), flush=True)
atexit.register(leave)
""",
        tmp_path / "spool",
    )
    assert 1 < said < 2.5


@pytest.mark.parametrize("kind", ["Exporter", "Spooling"])
def test_spans_that_end_first_at_exit_still_arrive(tmp_path: Path, kind: str) -> None:
    said, lines = run(
        f"""
provider = provider_of(SpoolingBatchSpanProcessor({kind}(os.environ["FILE"]), 1_000, 1e9, 10))
atexit.register(lambda: end(provider, *range(25)))
print(json.dumps("left"))
""",
        tmp_path / "spool",
    )
    assert said == "left"
    assert {line.split()[-1] for line in lines} == {str(number) for number in range(25)}
    assert len(lines) == 25


def test_what_was_spilled_survives_an_end_without_any_handler(tmp_path: Path) -> None:
    said, lines = run(
        """
exporter = Spooling(os.environ["FILE"], hangs=True)
processor = SpoolingBatchSpanProcessor(exporter, 100, 1e9, 10)
provider = provider_of(processor)
end(provider, *range(10))
exporter.entered.wait()
end(provider, *range(10, 500))
print(json.dumps(processor.handed_over), flush=True)
os._exit(0)
""",
        tmp_path / "spool",
    )
    assert said >= 390
    assert without_pid(lines) == [f"spilled {number}" for number in range(10, 10 + said)]


@forking
def test_a_child_forked_while_exporting_has_an_empty_queue_and_its_own_threads(tmp_path: Path) -> None:
    said, lines = run(
        """
exporter = Spooling(os.environ["FILE"])
processor = SpoolingBatchSpanProcessor(exporter, 1_000, 1e9, 10)
provider = provider_of(processor)
release = threading.Event()
inner = exporter.export
def export(spans):
    exporter.entered.set()
    release.wait()
    return inner(spans)
exporter.export = export
end(provider, *(f"parent-{number}" for number in range(15)))
exporter.entered.wait()
child = os.fork()
if child == 0:
    exporter.export = inner
    alone = threading.active_count() == 1
    before = processor.counts
    end(provider, *(f"child-{number}" for number in range(12)))
    flushed = provider.force_flush()
    provider.shutdown()
    good = alone and flushed and before.taken == before.waiting == 0 and processor.exported == 12
    os._exit(0 if good else 1)
_, status = os.waitpid(child, 0)
release.set()
flushed = provider.force_flush()
print(json.dumps([os.waitstatus_to_exitcode(status), flushed, processor.exported]))
""",
        tmp_path / "spool",
    )
    assert said == [0, True, 15]
    of_child = [f"exported child-{number}" for number in range(12)]
    of_parent = [f"exported parent-{number}" for number in range(15)]
    assert without_pid(lines) == of_child + of_parent
    assert len({line.split()[1] for line in lines}) == 2


@forking
def test_children_forked_under_load_do_not_hang_on_a_lock_of_the_parent(tmp_path: Path) -> None:
    said, lines = run(
        """
exporter = Spooling(os.environ["FILE"])
processor = SpoolingBatchSpanProcessor(exporter, 64, 1e9, 8)
provider = provider_of(processor)
stop = threading.Event()
def load():
    while not stop.is_set():
        end(provider, "parent")
        processor.force_flush(5)
threads = [threading.Thread(target=load, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
codes = []
for number in range(25):
    child = os.fork()
    if child == 0:
        threading.Timer(20, os._exit, [3]).start()
        end(provider, f"child-{number}")
        flushed = processor.force_flush(10_000)
        processor.shutdown()
        os._exit(0 if flushed and processor.exported == 1 else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for thread in threads:
    thread.join()
processor.shutdown()
counts = processor.counts
gone = counts.exported + counts.handed_over
print(json.dumps([codes, counts.taken - gone - counts.dropped.total(), gone]))
""",
        tmp_path / "spool",
    )
    codes, missing, gone = said
    assert codes == [0] * 25
    assert missing == 0
    by_name = [line.split()[2] for line in lines]
    assert sorted(name for name in by_name if name != "parent") == sorted(f"child-{number}" for number in range(25))
    assert by_name.count("parent") == gone


@forking
def test_a_child_of_a_fork_while_the_queues_lock_was_held_is_not_locked_out(tmp_path: Path) -> None:
    said, lines = run(
        """
exporter = Exporter(os.environ["FILE"])
processor = SpoolingBatchSpanProcessor(exporter, 64, 1e9, 8)
provider = provider_of(processor)
held, done = threading.Event(), threading.Event()
def hold():
    with processor._queue._lock, processor._crew.hiring:
        held.set()
        done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    threading.Timer(20, os._exit, [3]).start()
    end(provider, "child")
    processor.shutdown()
    os._exit(0)
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
done.set()
""",
        tmp_path / "spool",
    )
    assert said == 0
    assert without_pid(lines) == ["exported child"]


@forking
def test_a_processor_that_was_shut_down_stays_so_in_a_child(tmp_path: Path) -> None:
    said, lines = run(
        """
processor = SpoolingBatchSpanProcessor(Exporter(os.environ["FILE"]), 64, 1e9, 8)
provider = provider_of(processor)
processor.shutdown()
child = os.fork()
if child == 0:
    end(provider, "late")
    os._exit(processor.dropped["already_shutdown"])
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
""",
        tmp_path / "spool",
    )
    assert (said, lines) == (1, [])


METRICS = """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
def seen():
    data = reader.get_metrics_data()
    scopes = [scope for of in (data.resource_metrics if data else []) for scope in of.scope_metrics]
    return sorted(
        [metric.name, *sorted(map(str, point.attributes.values())), str(point.value)]
        for scope in scopes if scope.scope.name == "opentelemetry-sdk" for metric in scope.metrics
        for point in metric.data.data_points if "processor" in metric.name
    )
class Full(Exporter):
    def export(self, spans):
        self.entered.set()
        release.wait()
        return SpanExportResult.SUCCESS
release = threading.Event()
exporter = Full("")
"""
USE = """
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(processor)
end(provider, *range(5))
exporter.entered.wait()
end(provider, *range(12))
full = [row for row in seen() if "queue" in row[0] or "queue_full" in row]  # when an export counts, differs by version
release.set()
provider.shutdown()
end(provider, 1, 2, 3)
print(json.dumps([full, seen()]))
"""


@pytest.mark.parametrize("enabled", ["true", "false", "TRUE", "1", ""])
def test_its_own_metrics_are_those_of_the_sdks_processor(enabled: str) -> None:
    told = []
    for kind in ("SpoolingBatchSpanProcessor", "BatchSpanProcessor"):
        code = f"""
from opentelemetry.sdk.trace.export import BatchSpanProcessor
processor = {kind}(exporter, 10, 1e9, 5, meter_provider=MeterProvider([reader], shutdown_on_exit=False))
"""
        told.append(
            in_a_process_of_its_own(
                EXPORTER + METRICS + code + USE, OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED=enabled, FILE=""
            )
        )
    ours, theirs = told
    assert ours == theirs
    assert bool(ours[0]) == (enabled.lower() == "true")
