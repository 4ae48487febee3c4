"""Worker processes of job queues, and the spans that they have sent to a receiver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_span_id, format_trace_id

import otel_agentbus as agentbus
from otel_agentbus import testing
from otel_agentbus.testing import wait_until

from ..receivers import HttpReceiver

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """Which span: its trace, and its id there."""

    trace_id: str
    span_id: str


@dataclass(frozen=True)
class Arrived:
    """A span that a worker has sent."""

    name: str
    place: Place
    parent: str | None
    links: tuple[Place, ...]
    attributes: Mapping[str, Any]

    @property
    def attempt(self) -> int:
        return int(self.attributes.get("agentbus.attempt", 1))


def place_of(span: ReadableSpan) -> Place:
    """Where a span of this process is."""
    assert span.context is not None
    return Place(format_trace_id(span.context.trace_id), format_span_id(span.context.span_id))


@contextmanager
def enqueuer(name: str = "planner") -> Iterator[list[Place]]:
    """A tool of an agent, from which jobs are sent; it gives its place when it has ended."""
    place: list[Place] = []
    with testing.capture() as seen:
        with agentbus.agent(name) as run, run.tool("delegate"):
            yield place
        place.append(place_of(seen.span("execute_tool delegate")))


def arrived(receiver: HttpReceiver, name: str | None = None) -> list[Arrived]:
    """The spans that have come, in the order of their starts; with a name, those only."""
    found = [
        (span.start_time_unix_nano, _read(span))
        for request in receiver.of("/v1/traces")
        for resource in request.message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    ordered = [span for _, span in sorted(found, key=lambda pair: pair[0])]
    return [span for span in ordered if name is None or span.name == name]


def _read(span: Any) -> Arrived:
    return Arrived(
        span.name,
        Place(span.trace_id.hex(), span.span_id.hex()),
        span.parent_span_id.hex() or None,
        tuple(Place(link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        {pair.key: _plain(pair.value) for pair in span.attributes},
    )


def _plain(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def wait_for(receiver: HttpReceiver, name: str, count: int = 1, timeout: float = 30.0) -> list[Arrived]:
    """The spans of that name, once there are so many."""
    wait_until(lambda: len(arrived(receiver, name)) >= count, timeout)
    return arrived(receiver, name)


def environment(endpoint: str, **more: str) -> dict[str, str]:
    """What a worker's process is started with: nothing of this machine's settings, and where spans go."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    sent = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])]),
    }
    return {**inherited, **sent, **more}


def run_to_end(command: list[str], endpoint: str, timeout: float = 60.0, **more: str) -> str:
    """Run a worker that ends by itself; gives what it has said."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(endpoint, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextmanager
def going_on(
    command: list[str], endpoint: str, patience: float = 30.0, /, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that waits for jobs, ended by SIGTERM, in a process group of its own. It is not slow to send spans."""
    variables = environment(endpoint, **{"OTEL_BSP_SCHEDULE_DELAY": "200", **more})
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=variables, start_new_session=True)
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(patience)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


__all__ = ["Arrived", "Place", "arrived", "enqueuer", "environment", "going_on", "place_of", "run_to_end", "wait_for"]
