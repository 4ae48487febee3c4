"""The end of the interpreter: what was emitted goes out without being asked for, and nothing holds the process up."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .receivers import GrpcReceiver, GrpcReply, HttpReceiver, Reply, closed_port, in_a_process_of_its_own

ROOT = Path(__file__).parent.parent
#: The limit is 2 s, and an interpreter with all this needs some time by itself; the SDK alone would take 30 s.
SOON = 6.0


def run(code: str, **environment: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run a program; gives the time from its own last line to its end, and what it printed."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    ended = time.time()
    said = [line for line in done.stdout.splitlines() if line.startswith("last line ")]
    return ended - float(said[-1].split()[-1]) if said else 0.0, done


PROGRAM = """
import time
import otel_agentbus as agentbus
agentbus.connect()
for _ in range(RUNS):
    with agentbus.agent("a") as run, run.llm("m") as call:
        call.record(input_tokens=3)
print("last line", time.time(), flush=True)
"""


def names_at(receiver: HttpReceiver) -> list[str]:
    return [
        span.name
        for request in receiver.of("/v1/traces")
        for of_resource in request.message.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


@pytest.mark.parametrize("runs", [1, 1500])
def test_an_exit_delivers_everything_without_being_asked(runs: int) -> None:
    with HttpReceiver() as receiver:
        _, done = run(PROGRAM.replace("RUNS", str(runs)), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        names = names_at(receiver)
        assert sorted(names) == ["chat m"] * runs + ["invoke_agent a"] * runs
        assert receiver.of("/v1/metrics")


def test_an_exit_delivers_over_grpc() -> None:
    with GrpcReceiver() as receiver:
        _, done = run(
            PROGRAM.replace("RUNS", "3"),
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{receiver.address}",
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        )
        assert done.returncode == 0, done.stderr
        spans = [
            span.name
            for signal, message, _ in receiver.received
            if signal == "traces"
            for of_resource in message.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]
    assert sorted(spans) == ["chat m"] * 3 + ["invoke_agent a"] * 3


@pytest.mark.parametrize(
    ("ending", "returncode", "outcomes"),
    [
        ("raise ValueError('boom')", 1, ["error", "error"]),
        ("raise SystemExit(3)", 3, ["cancelled", "cancelled"]),
        ("import sys; sys.exit('stop')", 1, ["cancelled", "cancelled"]),
        ("raise KeyboardInterrupt", -2, ["cancelled", "cancelled"]),
    ],
)
def test_however_the_program_ends_its_open_blocks_are_told(ending: str, returncode: int, outcomes: list[str]) -> None:
    code = f"""
import otel_agentbus as agentbus
agentbus.connect()
with agentbus.agent("a"), agentbus.llm("m"):
    {ending}
"""
    with HttpReceiver() as receiver:
        _, done = run(code, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        assert done.returncode == returncode, done.stderr
        assert outcomes_at(receiver) == outcomes


def outcomes_at(receiver: HttpReceiver) -> list[str]:
    return [
        pair.value.string_value
        for request in receiver.of("/v1/traces")
        for of_resource in request.message.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
        for pair in span.attributes
        if pair.key == "agentbus.outcome"
    ]


def test_blocks_that_nobody_ends_are_interrupted_at_exit() -> None:
    code = """
import otel_agentbus as agentbus
agentbus.connect()
kept = [agentbus.agent("a").start(), agentbus.llm("m").start()]
"""
    with HttpReceiver() as receiver:
        _, done = run(code, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        assert done.returncode == 0, done.stderr
        assert outcomes_at(receiver) == ["interrupted", "interrupted"]


HANGS = {"http silent": 1, "grpc silent": 1, "http closed port": 1, "grpc closed port": 1}


@pytest.fixture(params=HANGS)
def hanging(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment of an endpoint that takes nothing."""
    protocol, _, how = request.param.partition(" ")
    environment = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if protocol == "grpc" else "http/protobuf"}
    with ExitStack() as stack:
        if how == "closed port":
            url = f"http://127.0.0.1:{stack.enter_context(closed_port())}"
        elif protocol == "grpc":
            replies = {"traces": GrpcReply(hang=True), "metrics": GrpcReply(hang=True)}
            url = f"http://{stack.enter_context(GrpcReceiver(replies)).address}"
        else:
            hang = Reply(hang=True)
            url = stack.enter_context(HttpReceiver({"/v1/traces": hang, "/v1/metrics": hang})).url
        yield {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": url}


@pytest.mark.parametrize("runs", [1, 3000])
def test_an_exit_before_an_endpoint_that_takes_nothing_is_bounded(hanging: dict[str, str], runs: int) -> None:
    took, done = run(PROGRAM.replace("RUNS", str(runs)), **hanging)
    assert done.returncode == 0, done.stderr
    assert took < SOON
    assert "Traceback" not in done.stderr


def test_the_limit_is_a_setting() -> None:
    with HttpReceiver({"/v1/traces": Reply(hang=True)}) as receiver:
        took, done = run(
            PROGRAM.replace("RUNS", "1"), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, AGENTBUS_EXIT_TIMEOUT="0.1"
        )
    assert done.returncode == 0, done.stderr
    assert took < SOON


def test_an_exit_with_handlers_that_hang_in_threads_and_tasks_is_bounded() -> None:
    code = """
import asyncio, threading, time
import otel_agentbus as agentbus
bus = agentbus.connect()

@bus.on(deliver="thread")
def stuck(event):
    threading.Event().wait()

@bus.on()
async def waiting(event):
    await asyncio.Event().wait()

async def main():
    async with agentbus.agent("a"):
        await asyncio.sleep(0)

asyncio.run(main())
print("last line", time.time(), flush=True)
"""
    with HttpReceiver() as receiver:
        took, done = run(code, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        assert done.returncode == 0, done.stderr
        assert took < SOON
        assert names_at(receiver) == ["invoke_agent a"]


def test_an_applications_own_provider_gets_everything_before_its_own_exit() -> None:
    """Also where it was made and set after connecting: at exit, the last registered goes first."""
    code = """
import otel_agentbus as agentbus
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
import os
agentbus.connect()
url = os.environ["URL"] + "/v1/traces"
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url)))
trace.set_tracer_provider(provider)
for _ in range(100):
    with agentbus.agent("a") as run, run.llm("m"):
        pass
"""
    with HttpReceiver() as receiver:
        _, done = run(code, URL=receiver.url)
        assert done.returncode == 0, done.stderr
        assert len(names_at(receiver)) == 200


def test_a_program_that_emits_in_its_own_exit_handlers_does_no_harm() -> None:
    code = """
import atexit, time
import otel_agentbus as agentbus

def late():
    with agentbus.agent("late") as run, run.llm("m"):
        pass
    print("last line", time.time(), flush=True)

atexit.register(late)  # runs after ours
agentbus.connect()

def early():
    with agentbus.agent("early"):
        pass

atexit.register(early)  # runs before ours
"""
    with HttpReceiver() as receiver:
        took, done = run(code, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert took < SOON
        assert names_at(receiver) == ["invoke_agent early"]


def test_threads_that_emit_while_the_interpreter_ends_do_no_harm() -> None:
    code = """
import threading, time
import otel_agentbus as agentbus
agentbus.connect()

def emit_for_ever():
    while True:
        with agentbus.agent("a") as run, run.llm("m"):
            pass

for _ in range(4):
    threading.Thread(target=emit_for_ever, daemon=True).start()
time.sleep(0.3)
print("last line", time.time(), flush=True)
"""
    with HttpReceiver() as receiver:
        took, done = run(code, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        assert done.returncode == 0, done.stderr
        assert took < SOON
        assert "Traceback" not in done.stderr
        assert names_at(receiver)


def test_a_stream_that_is_forgotten_and_holds_itself_is_cancelled_not_interrupted() -> None:
    found = in_a_process_of_its_own(
        """
        import gc, json
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        import otel_agentbus as agentbus

        gc.disable()
        kept, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(kept))

        class Stream:
            def __init__(self):
                self.chunks = agentbus.stream(self.speak(), agentbus.llm("m"))

            def speak(self):
                yield self
                yield "never"

        with agentbus.connect(tracer_provider=provider):
            next(Stream().chunks)
        [span] = kept.get_finished_spans()
        print(json.dumps(span.attributes["agentbus.outcome"]))
        """
    )
    assert found == "cancelled"
