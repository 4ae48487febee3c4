"""A burst of 20,000 spans at an endpoint that takes its time: 20,000 arrive, and memory is bounded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from otel_agentbus.telemetry.spool import spools

from .backends import Collector, Jaeger, eventually, free_ports
from .programs import burst
from .sampled import Sampled
from .slow_proxy import SlowProxy
from .troupes import IDS, ROOT, Troupe, environment, trace_id

TRACES, EACH = 100, 199
SPANS = TRACES * (1 + EACH)

#: Seconds that the slow endpoint takes for one batch of 512.
SLOW_S = 0.3
#: Design §10: the exit takes 2 s at most.
EXIT_S = 2.0
#: What a queue of 16,384 spans and the events on the way to it may take, in bytes: 5 kB each.
MARGIN = 20_000 * 5_000


class Ran(NamedTuple):
    """The program has run: what it said, and the most that it had in memory."""

    name: str
    said: dict[str, Any]
    rss: int


def settings_for(endpoint: str, directory: Path) -> dict[str, str]:
    """What the program is told."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_SERVICE_NAME": "burst",
        "OTEL_METRICS_EXPORTER": "none",
        "AGENTBUS_SPOOL_DIR": str(directory / "spool"),
    }


def run(endpoint: str, directory: Path) -> Ran:
    """One burst at this endpoint."""
    name = f"burst-{uuid.uuid4().hex[:8]}"
    command = [sys.executable, "-m", burst.__name__, name, str(TRACES), str(EACH)]
    env = environment(settings_for(endpoint, directory))
    with (
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as program,
        Sampled(program.pid, every=0.05) as watched,
    ):
        out, _ = program.communicate(timeout=180)
    assert program.returncode == 0
    return Ran(name, json.loads(out), max(sample.rss for sample in watched.samples))


def assert_arrived(jaeger: Jaeger, name: str, timeout: float = 10.0) -> None:
    """Every span of the burst, once, below its own run."""
    for number in range(TRACES):
        root = f"{name}-{number}"
        seen = eventually(partial(jaeger.places, trace_id(root)), lambda found: len(found) > EACH, timeout)
        run_id = f"{IDS.span_id(root, 'agent', root):016x}"
        calls = {f"{IDS.span_id(root, 'llm', root, str(call)):016x}": run_id for call in range(EACH)}
        assert Counter(seen) == Counter([(run_id, None), *calls.items()]), root


@pytest.fixture(scope="module")
def fast(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The same burst at an endpoint that answers at once."""
    return run(collector.otlp_http_endpoint, tmp_path_factory.mktemp("fast"))


@pytest.fixture(scope="module")
def slow(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The burst at an endpoint for which it is far too much at once."""
    with SlowProxy(collector.otlp_http_endpoint, SLOW_S) as proxy:
        ran = run(proxy.url, tmp_path_factory.mktemp("slow"))
        assert proxy.passed >= SPANS // 512
    return ran


@pytest.mark.parametrize("speed", ["fast", "slow"])
def test_every_span_of_a_burst_arrives_once(request: pytest.FixtureRequest, jaeger: Jaeger, speed: str) -> None:
    ran: Ran = request.getfixturevalue(speed)
    assert_arrived(jaeger, ran.name)


@pytest.mark.parametrize("speed", ["fast", "slow"])
def test_the_receipt_of_a_burst_tells_of_every_span(request: pytest.FixtureRequest, speed: str) -> None:
    ran: Ran = request.getfixturevalue(speed)
    health = ran.said["health"]
    assert ran.said["delivered"]
    assert health["balance"] == dict.fromkeys(health["balance"], 0)
    assert health["events"]["emitted"] == 2 * SPANS
    told = {fate: health["spans"][fate] for fate in ("ended", "exported", "rejected", "spooled", "dead_lettered")}
    assert told == {"ended": SPANS, "exported": SPANS, "rejected": 0, "spooled": 0, "dead_lettered": 0}
    assert health["spans"]["dropped"] == {}


def test_the_slow_endpoint_was_slower_than_the_burst(slow: Ran) -> None:
    assert slow.said["took"] < SLOW_S * SPANS / 512


def test_the_memory_that_a_slow_endpoint_costs_is_bounded(fast: Ran, slow: Ran) -> None:
    assert slow.rss < fast.rss + MARGIN, f"fast: {fast.rss:,}, slow: {slow.rss:,}"


def leave(name: str, how: str, settings: dict[str, str]) -> float:
    """A burst, and away; the seconds from the last line to the end."""
    command = [sys.executable, "-m", burst.__name__, name, str(TRACES), str(EACH), how]
    env = environment(settings)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=True)
    return time.monotonic() - float(json.loads(done.stdout)["last"])


@pytest.mark.parametrize("ill", ["down", "hangs"])
def test_a_queue_that_is_full_at_the_exit_is_on_disk_in_time(
    collector: Collector, jaeger: Jaeger, tmp_path: Path, ill: str
) -> None:
    """All spans have ended and none has left when the program does; the next process delivers them."""
    name, (port,) = f"burst-{uuid.uuid4().hex[:8]}", free_ports(1)
    settings = settings_for(f"http://127.0.0.1:{port}", tmp_path)
    if ill == "down":
        took = leave(name, "leave", settings)
    else:
        with SlowProxy(collector.otlp_http_endpoint, 3600.0, port):
            took = leave(name, "leave", settings)
    waiting = [found.waiting for found in spools(tmp_path / "spool")]
    with SlowProxy(collector.otlp_http_endpoint, 0.0, port):
        assert Troupe(tmp_path, settings, f"{name}-next", 1, linger=60.0).wait(90).code == 0
    assert waiting == [SPANS]
    assert_arrived(jaeger, name)
    assert took < EXIT_S + 2.0  # half a second is an interpreter's end; the machine is shared, and busy


@pytest.mark.parametrize("sync", ["event", "batch"])
def test_what_an_exit_in_the_middle_of_a_burst_leaves_is_recovered(
    collector: Collector, jaeger: Jaeger, tmp_path: Path, sync: str
) -> None:
    """Two seconds are too short to make 20,000 spans and to send them: what is not made is in the journal."""
    name = f"burst-{uuid.uuid4().hex[:8]}"
    settings = settings_for(collector.otlp_http_endpoint, tmp_path)
    settings |= {"AGENTBUS_JOURNAL": str(tmp_path / "journal"), "AGENTBUS_JOURNAL_SYNC": sync}
    assert leave(name, "bolt", settings) < EXIT_S + 2.0
    recover = [sys.executable, "-m", "otel_agentbus", "recover"]
    done = subprocess.run(recover, cwd=ROOT, env=environment(settings), timeout=120, check=False)
    assert done.returncode == 0
    Troupe(tmp_path, settings, f"{name}-next", 1, linger=60.0).wait(90)  # what was spooled
    assert_arrived(jaeger, name)
