"""The Collector is down, hangs, or is killed again and again: every span arrives, once, below its own parent."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .backends import Jaeger, eventually
from .conftest import required
from .flapping import DirectCollector, Flapping
from .programs import plain_spooled
from .programs.troupe import SPANS
from .troupes import (
    PROTOCOLS,
    ROOT,
    Process,
    Protocol,
    Troupe,
    assert_whole,
    environment,
    has_none,
    in_jaeger,
    outline,
)

RUNS = 4

#: Design §10: the exit of a process takes 2 s at most, and half a second is for what else an interpreter does.
EXIT_S = 2.5
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[DirectCollector]:
    """A Collector that may be killed without losing what it took."""
    server = DirectCollector(required("collector"), tmp_path_factory.mktemp("direct"), jaeger)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def collector(shared: DirectCollector) -> Iterator[DirectCollector]:
    """The same, up before and after each test, whatever that does with it."""
    yield shared
    if not shared.is_up:
        shared.start()


@pytest.fixture
def name() -> str:
    """What the runs of this test's program are called."""
    return f"lost-{uuid.uuid4().hex[:8]}"


def variables(collector: DirectCollector, protocol: str, directory: Path, **more: str) -> dict[str, str]:
    """What a program is told: where to, and where its spool lies."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint(protocol),
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_SERVICE_NAME": "lost",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "AGENTBUS_SPOOL_DIR": str(directory / "spool"),
        **more,
    }


def segments(directory: Path) -> list[Path]:
    """The files in the spool in which spans wait."""
    return list((directory / "spool").rglob("*.seg"))


def run(program: Troupe) -> float:
    """Have it run to its end; the seconds from its last line to its end."""
    ended = program.wait()
    assert ended.code == 0, ended.said
    assert "Traceback" not in ended.said, ended.said
    return ended.at - program.last_line()


def successor(directory: Path, name: str, settings: dict[str, str], seconds: float = PATIENCE_S) -> None:
    """The next process: it does something of its own, and lives until nothing is spooled, or for so long."""
    run(Troupe(directory, settings, name, 1, linger=seconds))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_whole_run_could_not_send_arrives_with_the_next_process(
    collector: DirectCollector, jaeger: Jaeger, tmp_path: Path, name: str, protocol: Protocol
) -> None:
    """Down for the whole run, its exit included, then up: the same trees as of a run with the Collector up."""
    settings = variables(collector, protocol, tmp_path)
    usual = run(Troupe(tmp_path, settings, f"{name}u", RUNS))
    assert not (tmp_path / "spool").exists()  # nothing is written while the endpoint answers
    up = in_jaeger(jaeger, f"{name}u", RUNS)

    collector.kill()
    program = Troupe(tmp_path, settings, f"{name}d", RUNS)
    assert run(program) < EXIT_S + usual
    collector.start()
    assert has_none(jaeger, f"{name}d", RUNS)
    successor(tmp_path, f"{name}s", settings)

    down = in_jaeger(jaeger, f"{name}d", RUNS)
    for root, spans in down.items():
        assert_whole(spans, root, program.told())
    want, got = (Counter(line for root in trees for line in outline(trees[root], root)) for trees in (up, down))
    assert got == want
    assert segments(tmp_path) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_could_not_be_sent_arrives_when_the_collector_comes_up_during_the_run(
    collector: DirectCollector, jaeger: Jaeger, tmp_path: Path, name: str, protocol: Protocol
) -> None:
    collector.kill()
    program = Troupe(tmp_path, variables(collector, protocol, tmp_path), name, RUNS, linger=PATIENCE_S)
    assert eventually(lambda: segments(tmp_path), bool, PATIENCE_S) != []
    collector.start()
    run(program)
    for root, spans in in_jaeger(jaeger, name, RUNS).items():
        assert_whole(spans, root, program.told())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_hangs_does_not_hold_up_the_exit_and_costs_nothing(
    collector: DirectCollector, jaeger: Jaeger, tmp_path: Path, name: str, protocol: Protocol
) -> None:
    settings = variables(collector, protocol, tmp_path)
    usual = run(Troupe(tmp_path, settings, f"{name}u", RUNS))
    collector.pause()
    try:
        program = Troupe(tmp_path, settings, name, RUNS)
        assert run(program) < EXIT_S + usual
    finally:
        collector.go_on()
    successor(tmp_path, f"{name}s", settings)
    for root, spans in in_jaeger(jaeger, name, RUNS).items():
        assert_whole(spans, root, program.told())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_process_with_another_header_sends_none_of_it_and_resend_does(
    collector: DirectCollector, jaeger: Jaeger, tmp_path: Path, name: str, protocol: Protocol
) -> None:
    """One tenant's data never leaves with another's key, unless somebody says so."""
    ours = variables(collector, protocol, tmp_path, OTEL_EXPORTER_OTLP_HEADERS="x-tenant=one")
    others = {**ours, "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=two"}
    collector.kill()
    program = Troupe(tmp_path, ours, name, RUNS)
    run(program)
    collector.start()
    successor(tmp_path, f"{name}s", others, seconds=2.0)  # longer than it would take
    assert has_none(jaeger, name, RUNS)

    resent = command("resend", str(tmp_path / "spool"), **others)
    assert resent.returncode == 0, resent.stdout + resent.stderr
    assert f"{len(in_jaeger(jaeger, name, RUNS)) * SPANS} spans sent" in resent.stdout
    for root, spans in in_jaeger(jaeger, name, RUNS).items():
        assert_whole(spans, root, program.told())
    assert "0 spans sent" in command("resend", str(tmp_path / "spool"), **others).stdout


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_lost_and_nothing_doubled_by_a_collector_that_is_killed_again_and_again(
    collector: DirectCollector, jaeger: Jaeger, tmp_path: Path, name: str, protocol: Protocol
) -> None:
    runs = 40
    settings = variables(collector, protocol, tmp_path, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="32")
    with Flapping(collector, up=0.6, down=0.3) as flapping:
        program = Troupe(tmp_path, settings, name, runs, linger=PATIENCE_S)
        run(program)
    assert flapping.kills >= 2
    for root, spans in in_jaeger(jaeger, name, runs).items():
        assert_whole(spans, root, program.told())


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`otel-agentbus` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "otel_agentbus", *arguments],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["wrapped", "configured"])
def test_a_program_of_the_plain_sdk_loses_nothing_either(
    collector: DirectCollector, jaeger: Jaeger, tmp_path: Path, name: str, how: str, protocol: Protocol
) -> None:
    """The SDK's own processor in front of our exporter, made by hand or by the SDK's configurator."""
    settings = variables(collector, protocol, tmp_path, OTEL_TRACES_EXPORTER="agentbus_spool")
    settings |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    collector.kill()
    assert plain(tmp_path, how, name, settings) == 0
    collector.start()
    assert jaeger.spans(plain_trace(name)) == []
    assert segments(tmp_path) != []
    assert plain(tmp_path, how, f"{name}s", settings, str(PATIENCE_S)) == 0  # the next process

    spans = jaeger.trace(plain_trace(name), spans=1 + plain_spooled.CHILDREN)
    (root,) = (span for span in spans if span.name == "root")
    assert Counter((span.name, span.parent_span_id) for span in spans if span is not root) == Counter(
        (f"child {number}", root.span_id) for number in range(plain_spooled.CHILDREN)
    )
    assert [span.attributes["number"] for span in spans if span is not root] == list(range(plain_spooled.CHILDREN))


def plain(directory: Path, how: str, name: str, settings: dict[str, str], *linger: str) -> int:
    """Run the plain program; its exit code."""
    arguments = how, name, str(directory / "spool"), *linger
    ended = Process(directory, settings, plain_spooled.__name__, *arguments).wait()
    assert "Traceback" not in ended.said, ended.said
    return ended.code


def plain_trace(name: str) -> str:
    """The trace of the plain program, as hex."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
