"""A hundred requests through four processes and three levels of agents below the first: each is one whole trace.

A web service's agent sends a Celery task, whose agent enqueues an RQ job, whose agent hands on to a plain script, whose
agent works by `resume`. Nobody sets anything but `connect()`, what to instrument, and OTEL_* or the broker's variables.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import httpx
import pytest
from redis import Redis

from otel_agentbus.telemetry.ids import Ids

from .backends import Collector, Jaeger, eventually, free_ports
from .otlp_json import ExportRequest, Span
from .queued import ROOT, environment

REQUESTS = 100
AT_ONCE = 8
PATIENCE_S = 120.0
#: How long a process may take to end: AGENTBUS_EXIT_TIMEOUT, and what its own framework takes for that.
END_S = 15.0
PROGRAMS = "tests.integration.programs"
#: uvicorn ends itself by the signal that has ended its work; the others' frameworks leave in peace.
CODES = {"web": -signal.SIGTERM, "tasks": 0, "jobs": 0, "script": 0}

#: What is said where nothing is wrong, and of a machine that is busy with other tests.
HARMLESS = re.compile(
    r"worker: Warm shutdown"
    r"|Relaying from "
    r"|.*emit of \w+ took [\d.]+ ms, most of it in otel_agentbus\."
    r"|[\d,]+ events/s, "
    r"|[\d,]+ spans? of [\d,]+ runs? sent, 0 of them interrupted; "
)

Way = Literal["exported", "relayed"]


class Running:
    """A program as a process, in a group of its own; what it says goes to a file."""

    def __init__(self, directory: Path, name: str, arguments: Sequence[str], variables: dict[str, str]) -> None:
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def complaints(self) -> list[str]:
        """What it has said beyond what each says: warnings, and worse. How busy this machine is does not count."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [f"{self._log.name}: {line}" for line in lines if line.strip() and not HARMLESS.match(line)]

    @property
    def lives(self) -> bool:
        return self._popen.poll() is None

    def ask_to_end(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    def code(self, until: float) -> int | None:
        """Its exit code; None: it still lives at that moment (monotonic)."""
        try:
            return self._popen.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End whatever is left of it and of its children."""
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._popen.wait()


class Scene:
    """The four processes, and the relay's where there is a broker."""

    def __init__(self, directory: Path, redis_url: str, endpoint: str, way: Way) -> None:
        self.way = way
        self.services = {name: f"four-{name}-{uuid.uuid4().hex[:8]}" for name in CODES}
        (port,) = free_ports(1)
        self._web = f"http://127.0.0.1:{port}"
        self._redis_url, self._endpoint, self._directory = redis_url, endpoint, directory
        quiet = ("-m", "celery", "-q", "-A", f"{PROGRAMS}.four_tasks", "worker")
        celery = ("--pool=prefork", "--concurrency=2", "--without-gossip", "--without-mingle", "--loglevel=warning")
        self.four = {
            "web": self._start("web", "-m", f"{PROGRAMS}.four_web", str(port), instrument="celery"),
            "tasks": self._start("tasks", *quiet, *celery, instrument="celery,rq"),
            "jobs": self._start("jobs", "-m", "rq.cli", "worker", "-q", "-u", redis_url, "-c", f"{PROGRAMS}.four_jobs"),
            "script": self._start("script", "-m", f"{PROGRAMS}.four_script"),
        }
        self.relays: list[Running] = []
        self.add_relay()

    def add_relay(self) -> None:
        """Where there is a broker, start one more worker of the relay: the others leave it its share of the shards."""
        if self.way == "relayed":
            # A lease that no busy machine outlives: then no span is sent a second time.
            relay = ("-m", "otel_agentbus", "relay", "--from", self._redis_url, "--lease", "20")
            name = f"relay-{len(self.relays)}"
            self.relays.append(Running(self._directory, name, relay, environment(self._endpoint)))

    def _start(self, name: str, *arguments: str, instrument: str = "") -> Running:
        variables = environment(
            self._endpoint,
            OTEL_SERVICE_NAME=self.services[name],
            OTEL_BSP_SCHEDULE_DELAY="60000",  # what ends in the last minute must leave by the process's end
            TEST_REDIS_URL=self._redis_url,
            AGENTBUS_INSTRUMENT=instrument,
            PYTHONWARNINGS="ignore:You're running the worker with superuser",
        )
        if self.way == "relayed":
            del variables["OTEL_EXPORTER_OTLP_ENDPOINT"], variables["OTEL_EXPORTER_OTLP_PROTOCOL"]
            variables["AGENTBUS_BROKER"] = self._redis_url
        return Running(self._directory, name, arguments, variables)

    def wait_for_web(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"{self._web}/healthy", trust_env=False).is_success
            except httpx.TransportError:
                return not self.four["web"].lives

        assert eventually(answers, bool, PATIENCE_S)

    def answer(self, number: int) -> str:
        """Send one request; gives its agent's invocation id. Every other one waits for what it has set off."""
        query = {"number": str(number), "wait": str(number % 2 == 0)}
        found = httpx.get(f"{self._web}/answer", params=query, timeout=PATIENCE_S, trust_env=False)
        return str(found.raise_for_status().json())

    def done(self) -> list[int]:
        """The requests that have come to their end in the last process."""
        with Redis.from_url(self._redis_url, decode_responses=True) as redis:
            return sorted(int(number) for number in redis.lrange("four:done", 0, -1))

    def kill(self) -> None:
        for running in (*self.four.values(), *self.relays):
            running.kill()


def end(processes: Sequence[Running]) -> list[int | None]:
    """Their exit codes after a SIGTERM; None for one that does not end in time."""
    until = time.monotonic() + END_S
    for running in processes:
        running.ask_to_end()
    return [running.code(until) for running in processes]


@pytest.fixture(params=["exported", "relayed"])
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, collector: Collector, jaeger: Jaeger
) -> Iterator[Scene]:
    made = Scene(tmp_path, redis_url, collector.otlp_http_endpoint, request.param)
    yield made
    made.kill()


# -- what Jaeger has ---------------------------------------------------------------------------------------------------

#: The tree of each request: the process, the span below the one that stands further left, and an agent's path.
TREE = """
web     invoke_agent front desk [front desk]
web       chat gpt-5-mini
web       execute_tool delegate
tasks       invoke_agent researcher [front desk/researcher]
tasks         chat claude-haiku-4-5
tasks         execute_tool hand over
jobs            invoke_agent writer [front desk/researcher/writer]
jobs              chat gpt-5-mini
jobs              execute_tool look up
script            invoke_agent archivist [front desk/researcher/writer/archivist]
script              execute_tool file
""".strip().splitlines()


def expected(number: int) -> list[str]:
    """The tree of one request, each span with its number."""
    return [f"{number:3} {line}" for line in TREE]


def drawn(spans: Sequence[Span], services: dict[str, str]) -> list[str]:
    """The trees that these spans make; one whose parent is not among them is drawn after the root, and named so."""
    ids = {span.span_id for span in spans}
    processes = {service: process for process, service in services.items()}

    def draw(span: Span, depth: int, prefix: str = "") -> Iterator[str]:
        process = processes.get(str(span.resource.get("service.name")), "somebody")
        path = span.attributes.get("agentbus.invocation.path")
        name = prefix + span.name + ("" if path is None else f" [{path}]")
        yield f"{span.attributes.get('number')!s:>3} {process:8}{'  ' * depth}{name}"
        below = [other for other in spans if other.parent_span_id == span.span_id]
        for child in sorted(below, key=lambda other: other.name):
            yield from draw(child, depth + 1)

    roots = [line for span in spans if span.parent_span_id is None for line in draw(span, 0)]
    orphans = [span for span in spans if span.parent_span_id is not None and span.parent_span_id not in ids]
    return [*roots, *(line for span in orphans for line in draw(span, 0, "orphan: "))]


def found_in(jaeger: Jaeger, services: dict[str, str]) -> dict[str, list[Span]]:
    """Every trace, by its id, in which any of these services has a span."""
    spans: dict[str, list[Span]] = {}
    for service in services.values():
        for trace_id, group in _searched(jaeger, service).items():
            spans.setdefault(trace_id, group)
    return spans


def _searched(jaeger: Jaeger, service: str) -> dict[str, list[Span]]:
    now = time.time()
    asked = {
        "query.service_name": service,
        "query.start_time_min": _rfc3339(now - 600),
        "query.start_time_max": _rfc3339(now + 600),
        "query.num_traces": str(10 * REQUESTS),
        "query.raw_traces": "true",  # as they came: a span that came twice is there twice
    }
    answer = httpx.get(f"{jaeger.query_url}/api/v3/traces", params=asked, timeout=30, trust_env=False)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return {}
    found: defaultdict[str, list[Span]] = defaultdict(list)
    for span in ExportRequest.model_validate(answer.raise_for_status().json()["result"]).spans():
        found[span.trace_id].append(span)
    return found


def _rfc3339(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


# -- the test ----------------------------------------------------------------------------------------------------------


def test_a_hundred_requests_through_four_processes_are_a_hundred_whole_traces(scene: Scene, jaeger: Jaeger) -> None:
    scene.wait_for_web()
    with ThreadPoolExecutor(AT_ONCE) as clients:
        roots = list(clients.map(scene.answer, range(REQUESTS // 2)))
        scene.add_relay()
        roots += clients.map(scene.answer, range(REQUESTS // 2, REQUESTS))
    assert len(eventually(scene.done, lambda done: len(done) >= REQUESTS, PATIENCE_S)) >= REQUESTS
    assert [name for name, running in scene.four.items() if not running.lives] == []

    assert dict(zip(scene.four, end(list(scene.four.values())), strict=True)) == CODES
    assert scene.done() == list(range(REQUESTS))

    whole = REQUESTS * len(TREE)
    eventually(
        lambda: found_in(jaeger, scene.services), lambda found: sum(map(len, found.values())) >= whole, PATIENCE_S
    )
    assert end(scene.relays) == [0] * len(scene.relays)

    traces = found_in(jaeger, scene.services)
    ids = [f"{Ids().trace_id(root):032x}" for root in roots]
    for number, trace_id in enumerate(ids):
        assert drawn(traces.get(trace_id, ()), scene.services) == expected(number)
    assert sorted(traces) == sorted(ids)
    every = [span for trace in traces.values() for span in trace]
    assert len({span.span_id for span in every}) == len(every) == whole
    assert [span for span in every if span.links or span.status == "ERROR"] == []
    assert [line for running in (*scene.four.values(), *scene.relays) for line in running.complaints] == []
