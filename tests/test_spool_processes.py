"""The spool over the lives of processes: who ends, is killed, forks or shares a directory loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .faulty_endpoint import HANG, OK, FaultyHttp, status

#: Makes an exporter to the endpoint of the environment, the spool being there, too.
PREAMBLE = """
import json, os, signal, sys, threading, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from otel_agentbus.spool_exporter import SpoolExporter
from otel_agentbus.telemetry.spool import pace
from otel_agentbus.testing import wait_until
from tests.spooling import spans
def told(exporter):
    counts = exporter.counts
    assert counts.balanced, counts
    names = ("taken", "adopted", "delivered", "dead_lettered", "spooled", "in_flight", "resent")
    return {**{name: getattr(counts, name) for name in names}, "dropped": dict(counts.dropped)}
"""


def environment(endpoint: FaultyHttp, directory: Path, **more: str) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint.url,
        "AGENTBUS_SPOOL_DIR": str(directory),
        **more,
    }


def start(code: str, variables: dict[str, str]) -> subprocess.Popen[str]:
    whole = PREAMBLE + textwrap.dedent(code)
    command = [sys.executable, "-W", "ignore", "-c", whole]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(code: str, variables: dict[str, str]) -> Any:
    """What the program prints last, as JSON."""
    process = start(code, variables)
    out, problems = process.communicate(timeout=60)
    assert process.returncode == 0, problems
    return json.loads(out.splitlines()[-1]) if out else None


def test_what_one_process_could_not_send_the_next_one_sends(tmp_path: Path) -> None:
    with FaultyHttp(default=status(503)) as endpoint:
        variables = environment(endpoint, tmp_path / "spool")
        first = run(
            """
            exporter = SpoolExporter()
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(exporter))
            for number in range(50):
                provider.get_tracer("t").start_span(str(number)).end()
            provider.shutdown()
            print(json.dumps(told(exporter)))
            """,
            variables,
        )
        assert (first["taken"], first["spooled"]) == (50, 50)
        refused = {arrived.body for arrived in endpoint.requests}
        endpoint.default = OK
        second = run(
            """
            exporter = SpoolExporter()
            assert wait_until(lambda: exporter.counts.delivered == 50)
            exporter.shutdown()
            print(json.dumps(told(exporter)))
            """,
            variables,
        )
        assert (second["taken"], second["adopted"], second["delivered"], second["spooled"]) == (0, 50, 50, 0)
        assert endpoint.names() == [str(number) for number in range(50)]
        assert {arrived.body for arrived in endpoint.taken()} >= refused
        assert not list((tmp_path / "spool").rglob("*.seg"))


def test_a_killed_process_loses_nothing_that_was_spooled(tmp_path: Path) -> None:
    with FaultyHttp(default=status(503)) as endpoint:
        variables = environment(endpoint, tmp_path / "spool")
        process = start(
            """
            exporter = SpoolExporter()
            for number in range(1000):
                exporter.export(spans(str(number)))
                print(number, flush=True)
            time.sleep(60)
            """,
            variables,
        )
        assert process.stdout is not None
        last = 0
        for line in process.stdout:
            last = int(line)
            if last == 400:
                process.kill()
        process.communicate()
        endpoint.default = OK
        run(
            """
            exporter = SpoolExporter()
            assert wait_until(lambda: exporter.counts.adopted > 0 and exporter.spooled == 0, 20)
            exporter.shutdown()
            """,
            variables,
        )
        names = endpoint.names()
        assert names[: last + 1] == [str(number) for number in range(last + 1)]
        assert len(names) <= last + 2  # one more may have been written and not been told


def test_two_processes_on_one_spool_send_each_span_once(tmp_path: Path) -> None:
    with FaultyHttp(default=status(503)) as endpoint:
        variables = environment(endpoint, tmp_path / "spool")
        code = """
            pace.FIRST_S, pace.LONGEST_S = 0.01, 0.05
            exporter = SpoolExporter()
            for number in range(100):
                exporter.export(spans(f"{sys.argv[1]}-{number}"))
            print("ready", flush=True)
            assert wait_until(lambda: exporter.spooled == 0, 20)
            exporter.shutdown()
            print(json.dumps(told(exporter)))
            """
        processes = []
        for name in "ab":
            whole = PREAMBLE + textwrap.dedent(code)
            command = [sys.executable, "-W", "ignore", "-c", whole, name]
            processes.append(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True))
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        endpoint.default = OK
        for process in processes:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            counts = json.loads(out.splitlines()[-1])
            assert counts["delivered"] == 100 + counts["adopted"]
        arrived = Counter(endpoint.names())
        assert arrived == Counter([f"{name}-{number}" for name in "ab" for number in range(100)])


ENDS = {
    "the provider made first": """
        provider = TracerProvider()
        exporter = SpoolExporter()
        """,
    "the provider made last": """
        exporter = SpoolExporter()
        provider = TracerProvider()
        """,
}


@pytest.mark.parametrize("order", ENDS)
@pytest.mark.parametrize("earlier", [False, True])
def test_under_the_sdks_processor_a_hanging_endpoint_holds_up_the_exit_for_two_seconds(
    tmp_path: Path, order: str, earlier: bool
) -> None:
    with FaultyHttp(default=HANG) as endpoint:
        variables = environment(endpoint, tmp_path / "spool")
        process = start(
            textwrap.dedent(ENDS[order])
            + textwrap.dedent(
                f"""
                provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=100))
                tracer = provider.get_tracer("t")
                if {earlier}:
                    tracer.start_span("earlier").end()
                    assert wait_until(lambda: exporter.counts.in_flight == 1)
                for number in range(2000):
                    tracer.start_span(str(number)).end()
                print("end", flush=True)
                """
            ),
            variables,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "end\n"
        began = time.monotonic()
        _, problems = process.communicate(timeout=60)
        assert process.returncode == 0, problems
        assert time.monotonic() - began < 4  # the SDK alone takes 30; two of ours, the rest is a busy machine's
        endpoint.default = OK
        endpoint.release()
        counts = run(
            f"""
            exporter = SpoolExporter()
            assert wait_until(lambda: exporter.counts.delivered == {2000 + earlier}, 20)
            exporter.shutdown()
            print(json.dumps(told(exporter)))
            """,
            variables,
        )
        assert counts["adopted"] == 2000 + earlier


def test_a_healthy_endpoint_gets_everything_at_exit(tmp_path: Path) -> None:
    with FaultyHttp() as endpoint:
        run(
            """
            exporter = SpoolExporter()
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(exporter))
            for number in range(2000):
                provider.get_tracer("t").start_span(str(number)).end()
            """,
            environment(endpoint, tmp_path / "spool"),
        )
        assert endpoint.names() == [str(number) for number in range(2000)]
        assert not (tmp_path / "spool").exists()


def test_a_forked_child_has_its_own_books_and_its_own_spans(tmp_path: Path) -> None:
    with FaultyHttp(default=status(503)) as endpoint:
        said = run(
            """
            pace.FIRST_S, pace.LONGEST_S = 0.01, 0.05
            exporter = SpoolExporter()
            exporter.export(spans("parent"))
            held = threading.Event()
            def hold():
                with exporter._courier._changed, exporter._store._lock:
                    held.set()
                    time.sleep(1)
            holder = threading.Thread(target=hold)
            holder.start()
            held.wait()
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                before = told(exporter)
                exporter.export(spans("child"))
                after = told(exporter)
                exporter.shutdown()
                os.write(write, json.dumps([before, after]).encode())
                os._exit(0)
            os.close(write)
            child = json.loads(os.read(read, 10000))
            assert os.waitpid(pid, 0)[1] == 0
            holder.join()
            exporter.shutdown()
            print(json.dumps([*child, told(exporter)]))
            """,
            environment(endpoint, tmp_path / "spool"),
        )
        assert [(each["taken"], each["spooled"]) for each in said] == [(0, 0), (1, 1), (1, 1)]
        endpoint.default = OK
        run(
            """
            exporter = SpoolExporter()
            assert wait_until(lambda: exporter.counts.delivered == 2)
            exporter.shutdown()
            """,
            environment(endpoint, tmp_path / "spool"),
        )
        assert sorted(endpoint.names()) == ["child", "parent"]


def test_a_child_sends_for_itself_when_the_parent_is_sending(tmp_path: Path) -> None:
    with FaultyHttp() as endpoint:
        run(
            """
            exporter = SpoolExporter()
            exporter.export(spans("parent"))
            children = []
            for number in range(5):
                pid = os.fork()
                if not pid:
                    exporter.export(spans(f"child {number}"))
                    os._exit(0 if told(exporter)["delivered"] == 1 else 1)
                children.append(pid)
            assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 5
            exporter.export(spans("parent again"))
            exporter.shutdown()
            """,
            environment(endpoint, tmp_path / "spool"),
        )
        expected = ["parent", *(f"child {number}" for number in range(5)), "parent again"]
        assert sorted(endpoint.names()) == sorted(expected)


def test_a_full_disk_costs_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    with FaultyHttp(default=status(503)) as endpoint:
        variables = environment(endpoint, tmp_path / "spool")
        counts = run(
            """
            import resource
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            exporter = SpoolExporter()
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
            for number in range(1000):
                exporter.export(spans(str(number)))
            exporter.shutdown()
            print(json.dumps(told(exporter)))
            """,
            variables,
        )
        spooled = counts["spooled"]
        assert counts["taken"] == 1000
        assert 0 < spooled < 1000
        assert counts["dropped"] == {"spool_full": 1000 - spooled}
        endpoint.default = OK
        run(
            """
            exporter = SpoolExporter()
            assert wait_until(lambda: exporter.counts.adopted > 0 and exporter.spooled == 0, 20)
            exporter.shutdown()
            """,
            variables,
        )
        assert len(set(endpoint.names())) == len(endpoint.names()) == spooled


def test_the_entry_point_gives_an_instrumented_program_the_spool(tmp_path: Path) -> None:
    with FaultyHttp(default=status(503)) as endpoint:
        said = run(
            """
            from importlib.metadata import EntryPoint
            found = EntryPoint("agentbus_spool", "otel_agentbus.spool_exporter:SpoolExporter", "g").load()
            from opentelemetry.sdk._configuration import _init_tracing
            from opentelemetry import trace
            _init_tracing({"agentbus_spool": found})
            trace.get_tracer("t").start_span("a").end()
            provider = trace.get_tracer_provider()
            provider.force_flush()
            (processor,) = provider._active_span_processor._span_processors
            print(json.dumps(told(processor.span_exporter)))
            """,
            environment(endpoint, tmp_path / "spool", OTEL_TRACES_EXPORTER="agentbus_spool"),
        )
        assert (said["taken"], said["spooled"]) == (1, 1)


def test_a_sigterm_in_the_middle_leaves_what_was_spooled(tmp_path: Path) -> None:
    with FaultyHttp(default=HANG) as endpoint:
        process = start(
            """
            exporter = SpoolExporter()
            exporter.spill(spans("a", "b"))
            print("spilled", flush=True)
            time.sleep(60)
            """,
            environment(endpoint, tmp_path / "spool"),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "spilled\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        from otel_agentbus.telemetry.spool import spools

        (found,) = spools(tmp_path / "spool")
        assert (found.waiting, found.owned) == (2, False)
