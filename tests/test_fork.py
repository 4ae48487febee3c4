"""Forks: the child's events are exported by the child, the parent's runs are ended by the parent, and nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .receivers import GrpcReceiver, HttpReceiver

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

PRELUDE = """
import multiprocessing, os, sys, threading, time
import otel_agentbus as agentbus

def work(name, calls=1):
    with agentbus.agent(name) as run:
        for _ in range(calls):
            with run.llm("m") as call:
                call.record(input_tokens=1)

def wait_for(pid):
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, code
"""


def run(code: str, receiver: HttpReceiver | GrpcReceiver, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that forks; its children have ended when it has."""
    url = receiver.url if isinstance(receiver, HttpReceiver) else f"http://{receiver.address}"
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env={**inherited, "PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": url, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def spans_at(receiver: HttpReceiver | GrpcReceiver) -> list[Any]:
    """All spans that have arrived, each once: ids that came twice are an error."""
    if isinstance(receiver, HttpReceiver):
        messages = [request.message for request in receiver.of("/v1/traces")]
    else:
        messages = [message for signal, message, _ in receiver.received if signal == "traces"]
    found = [
        span
        for message in messages
        for of_resource in message.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]
    twice = [span_id for span_id, count in Counter(span.span_id for span in found).items() if count > 1]
    assert twice == []
    return found


def names_at(receiver: HttpReceiver | GrpcReceiver) -> Counter[str]:
    return Counter(span.name for span in spans_at(receiver))


def said(span: Any, key: str) -> str | None:
    return next((pair.value.string_value for pair in span.attributes if pair.key == key), None)


def test_parent_and_child_each_export_their_own() -> None:
    code = """
agentbus.connect()
work("before")
pid = os.fork()
if pid == 0:
    work("child")
    sys.exit(0)
wait_for(pid)
work("after")
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert names_at(receiver) == {
            "invoke_agent before": 1,
            "invoke_agent child": 1,
            "invoke_agent after": 1,
            "chat m": 3,
        }
        assert len({span.trace_id for span in spans_at(receiver)}) == 3


def test_child_and_parent_are_different_sources() -> None:
    code = """
import json
bus = agentbus.connect()
before = bus.source
work("a")
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    work("child")
    os.write(writer, json.dumps([bus.source, bus.health()["events"]["emitted"]]).encode())
    sys.exit(0)
wait_for(pid)
source, emitted = json.loads(os.read(reader, 1000))
work("b")
print(json.dumps([source != before, bus.source == before, emitted, bus.health()["events"]["emitted"]]))
"""
    with HttpReceiver() as receiver:
        assert json.loads(run(code, receiver).stdout) == [True, True, 4, 8]


def test_a_block_that_is_open_at_the_fork_is_ended_by_the_parent_only() -> None:
    code = """
agentbus.connect()
with agentbus.agent("outer") as run, agentbus.tool("spawn", tool_call_id="t"):
    pid = os.fork()
    if pid == 0:
        work("child")
    else:
        wait_for(pid)
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        spans = {span.name: span for span in spans_at(receiver)}
    assert set(spans) == {"invoke_agent outer", "execute_tool spawn", "invoke_agent child", "chat m"}
    assert spans["invoke_agent child"].parent_span_id == spans["execute_tool spawn"].span_id
    assert {said(span, "agentbus.outcome") for span in spans.values()} == {"ok"}
    assert len({span.trace_id for span in spans.values()}) == 1


def test_a_run_that_is_open_at_the_fork_is_not_interrupted_by_the_childs_exit() -> None:
    code = """
agentbus.connect()
run = agentbus.agent("outer").start()
call = run.llm("m").start()
pid = os.fork()
if pid == 0:
    sys.exit(0)
wait_for(pid)
call.end()
run.end()
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert [(span.name, said(span, "agentbus.outcome")) for span in spans_at(receiver)] == [
            ("chat m", "ok"),
            ("invoke_agent outer", "ok"),
        ]


def test_an_exception_that_leaves_a_block_in_the_child_is_the_childs_alone() -> None:
    code = """
agentbus.connect()
with agentbus.agent("outer"):
    pid = os.fork()
    if pid == 0:
        sys.stderr.close()
        raise ValueError("in the child")
    os.waitpid(pid, 0)
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert [(span.name, said(span, "agentbus.outcome")) for span in spans_at(receiver)] == [
            ("invoke_agent outer", "ok")
        ]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_workers_of_multiprocessing_export_at_their_exit(method: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        textwrap.dedent("""
            import os
            import otel_agentbus as agentbus

            def job(number, method):
                if method != "fork":
                    agentbus.connect()
                with agentbus.agent(f"worker {number}") as run, run.llm("m"):
                    pass
        """)
    )
    code = f"""
import jobs
if __name__ == "__main__":
    agentbus.connect()
    work("before")
    context = multiprocessing.get_context({method!r})
    workers = [context.Process(target=jobs.job, args=(number, {method!r})) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, worker.exitcode
    work("after")
"""
    with HttpReceiver() as receiver:
        run(code, receiver, PYTHONPATH=os.pathsep.join([str(ROOT), str(tmp_path)]))
        assert names_at(receiver) == {
            "chat m": 5,
            "invoke_agent before": 1,
            "invoke_agent after": 1,
            **{f"invoke_agent worker {number}": 1 for number in range(3)},
        }


def test_a_worker_that_connects_by_itself_exports_at_its_exit() -> None:
    code = """
def job():
    agentbus.connect()
    work("worker")

worker = multiprocessing.get_context("fork").Process(target=job)
worker.start()
worker.join()
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert names_at(receiver) == {"chat m": 1, "invoke_agent worker": 1}


def test_a_pool_of_forked_workers_exports_what_each_did() -> None:
    code = """
def job(number):
    work(f"job {number}")
    return os.getpid()

agentbus.connect()
with multiprocessing.get_context("fork").Pool(3) as pool:
    pids = pool.map(job, range(20), chunksize=1)
    pool.close()
    pool.join()
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert names_at(receiver) == {"chat m": 20, **{f"invoke_agent job {number}": 1 for number in range(20)}}


PREFORK = """
import signal

agentbus.connect()
work("master")  # as an application does that warms up before it forks
workers = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        for request in range(25):
            work(f"worker {number}")
        os.write(ready, b".")
        while True:
            signal.pause()
    workers.append(pid)
"""


def test_a_prefork_server_exports_what_its_workers_did() -> None:
    """Workers serve, then wait, and are ended by a signal that they handle, as those of gunicorn are."""
    code = (
        "reader, ready = os.pipe()\n"
        + PREFORK
        + """
done = b""
while len(done) < 4:
    done += os.read(reader, 4)
for pid in workers:
    os.kill(pid, signal.SIGTERM)
for pid in workers:
    wait_for(pid)
"""
    )
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert names_at(receiver) == {
            "chat m": 101,
            "invoke_agent master": 1,
            **{f"invoke_agent worker {number}": 25 for number in range(4)},
        }


def test_a_worker_that_lives_on_exports_by_itself() -> None:
    """Nothing is flushed by hand and nobody exits: the child's own background does it."""
    code = """
agentbus.connect()
pid = os.fork()
if pid == 0:
    work("worker")
    time.sleep(30)
    os._exit(1)
print(pid, flush=True)
import urllib.request
deadline = time.monotonic() + 60
url = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/arrived"
while time.monotonic() < deadline:
    if urllib.request.urlopen(url).status == 200:
        break
    time.sleep(0.05)
os.kill(pid, 9)
os.waitpid(pid, 0)
"""
    with ArrivalReceiver() as receiver:
        run(code, receiver, OTEL_BSP_SCHEDULE_DELAY="200")
        assert names_at(receiver) == {"chat m": 1, "invoke_agent worker": 1}


class ArrivalReceiver(HttpReceiver):
    """Answers "/arrived" with 200 once spans have arrived, with 204 before."""

    def __init__(self) -> None:
        super().__init__()
        self.replies = Arrived(self)


class Arrived(dict[str, Any]):
    def __init__(self, receiver: HttpReceiver) -> None:
        super().__init__()
        self.receiver = receiver

    def get(self, path: str, default: Any = None) -> Any:
        from .receivers import Reply

        if path == "/arrived":
            return Reply(200 if self.receiver.of("/v1/traces") else 204)
        return default


def test_twenty_forks_while_other_threads_emit_lose_and_double_nothing() -> None:
    code = """
agentbus.connect()
over = threading.Event()
done = [0, 0]
allowed = 0  # in all 24,000 events: on the slowest machine no more than the ring takes

def emit_on(share):
    while not over.is_set():
        if done[share] < allowed:
            work("busy")
            done[share] += 1
        time.sleep(0.001)

threads = [threading.Thread(target=emit_on, args=(share,)) for share in range(2)]
for thread in threads:
    thread.start()
for number in range(20):
    allowed += 150
    while min(done) < allowed - 130:
        time.sleep(0.001)
    pid = os.fork()
    if pid == 0:
        work(f"child {number}")
        sys.exit(0)
    wait_for(pid)
over.set()
for thread in threads:
    thread.join()
agentbus.connect().flush(60)
print(sum(done))
"""
    with HttpReceiver() as receiver:
        done = int(run(code, receiver).stdout)
        names = names_at(receiver)
    assert names == {
        "invoke_agent busy": done,
        "chat m": done + 20,
        **{f"invoke_agent child {number}": 1 for number in range(20)},
    }


def test_a_child_of_a_child_is_a_source_of_its_own_too() -> None:
    code = """
agentbus.connect()
with agentbus.agent("grandparent"):
    pid = os.fork()
    if pid == 0:
        with agentbus.agent("parent"):
            pid = os.fork()
            if pid == 0:
                work("child")
            else:
                wait_for(pid)
    else:
        wait_for(pid)
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        spans = {span.name: span for span in spans_at(receiver)}
    assert set(spans) == {"invoke_agent grandparent", "invoke_agent parent", "invoke_agent child", "chat m"}
    assert spans["invoke_agent child"].parent_span_id == spans["invoke_agent parent"].span_id
    assert spans["invoke_agent parent"].parent_span_id == spans["invoke_agent grandparent"].span_id


def test_a_forked_child_exports_over_grpc() -> None:
    code = """
agentbus.connect()
work("before")
agentbus.connect().flush()
pid = os.fork()
if pid == 0:
    work("child")
    sys.exit(0)
wait_for(pid)
work("after")
"""
    with GrpcReceiver() as receiver:
        run(code, receiver, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
        assert names_at(receiver) == {
            "invoke_agent before": 1,
            "invoke_agent child": 1,
            "invoke_agent after": 1,
            "chat m": 3,
        }


def test_handlers_of_the_child_hear_the_childs_events_only() -> None:
    code = """
import json
bus = agentbus.connect()
heard = []
bus.subscribe(lambda event: heard.append(event.agent), deliver="thread")
work("before")
bus.flush()
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    heard.clear()
    work("child")
    bus.flush()
    os.write(writer, json.dumps(heard).encode())
    sys.exit(0)
wait_for(pid)
work("after")
bus.flush()
print(json.dumps([json.loads(os.read(reader, 10000)), heard]))
"""
    with HttpReceiver() as receiver:
        child, parent = json.loads(run(code, receiver).stdout)
    assert child == ["child"] * 4
    assert parent == ["before"] * 4 + ["after"] * 4


def test_a_child_that_leaves_by_os_exit_does_not_end_the_parents_runs() -> None:
    code = """
agentbus.connect()
with agentbus.agent("outer"):
    pid = os.fork()
    if pid == 0:
        work("lost")
        os._exit(0)
    wait_for(pid)
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert names_at(receiver)["invoke_agent outer"] == 1


def test_a_child_may_close_its_bus_and_connect_anew() -> None:
    code = """
bus = agentbus.connect()
pid = os.fork()
if pid == 0:
    work("one")
    assert bus.close()
    with agentbus.connect() as other:
        assert other is not bus
        work("two")
    os._exit(0)
wait_for(pid)
work("parent")
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert names_at(receiver) == {
            "invoke_agent one": 1,
            "invoke_agent two": 1,
            "invoke_agent parent": 1,
            "chat m": 3,
        }


def test_an_applications_own_provider_serves_the_child_as_it_can() -> None:
    """Its exporters are its own business; the SDK's batch processor starts afresh in a child."""
    code = """
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
agentbus.connect(tracer_provider=provider)
over = threading.Event()

def ask_on():
    while not over.is_set():
        provider.get_tracer("somebody's")  # the provider has a lock, which a fork may copy locked

thread = threading.Thread(target=ask_on)
thread.start()
with agentbus.agent("outer"):
    for number in range(10):
        pid = os.fork()
        if pid == 0:
            work(f"child {number}")
            agentbus.connect().flush()
            provider.force_flush()
            os._exit(0)
        wait_for(pid)
over.set()
thread.join()
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert names_at(receiver) == {
            "invoke_agent outer": 1,
            "chat m": 10,
            **{f"invoke_agent child {number}": 1 for number in range(10)},
        }


def test_a_lock_of_the_applications_provider_that_was_taken_at_the_fork_does_not_hold_up_the_child() -> None:
    code = """
from opentelemetry.sdk.trace import TracerProvider

class Locked(TracerProvider):
    lock = threading.Lock()

    def get_tracer(self, *args, **kwargs):
        with self.lock:
            return super().get_tracer(*args, **kwargs)

bus = agentbus.connect(tracer_provider=Locked())
Locked.lock.acquire()  # as another thread would, which the child does not have
pid = os.fork()
if pid == 0:
    work("child")
    os._exit(0 if bus.flush() else 1)
wait_for(pid)
"""
    with HttpReceiver() as receiver:
        run(code, receiver)


def test_a_child_whose_exporters_cannot_be_made_goes_on_without(tmp_path: Path) -> None:
    code = """
import json, pathlib
bus = agentbus.connect()
pathlib.Path(os.environ["OTEL_EXPORTER_OTLP_CERTIFICATE"]).unlink()
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    heard = []
    bus.subscribe(lambda event: heard.append(event.kind))
    work("child")
    bus.flush()
    os.write(writer, json.dumps([heard, bus.health()["traces"]]).encode())
    sys.exit(0)
wait_for(pid)
print(os.read(reader, 10000).decode())
"""
    certificate = tmp_path / "certificate.pem"
    certificate.write_text("a certificate")
    with GrpcReceiver() as receiver:
        secure = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"https://{receiver.address}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        done = run(code, receiver, **secure, OTEL_EXPORTER_OTLP_CERTIFICATE=str(certificate))
    heard, traces = json.loads(done.stdout)
    assert heard == ["agent.start", "llm.request", "llm.response", "agent.end"]
    assert traces.startswith("not exported: ")


def test_a_fork_in_an_event_loop_leaves_the_childs_lineage_whole() -> None:
    code = """
import asyncio

async def main():
    async with agentbus.agent("outer"):
        pid = os.fork()
        if pid == 0:
            work("child")
            agentbus.connect().flush()
            os._exit(0)
        await asyncio.to_thread(wait_for, pid)

agentbus.connect()
asyncio.run(main())
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        spans = {span.name: span for span in spans_at(receiver)}
    assert spans["invoke_agent child"].parent_span_id == spans["invoke_agent outer"].span_id


def test_a_bus_that_is_closed_before_the_fork_is_closed_in_the_child() -> None:
    code = """
bus = agentbus.connect()
work("before")
bus.close()
pid = os.fork()
if pid == 0:
    work("nobody hears")
    sys.exit(0)
wait_for(pid)
"""
    with HttpReceiver() as receiver:
        run(code, receiver)
        assert names_at(receiver) == {"invoke_agent before": 1, "chat m": 1}
