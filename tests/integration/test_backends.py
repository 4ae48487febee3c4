"""The harness itself, tried with the plain OpenTelemetry SDK: what is sent comes back as it was sent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest
import yaml

from . import redis_server
from .backends import COLLECTOR_CONFIG, COMPOSE_FILE, LEASH, Collector, Jaeger, ServerFailed, eventually, free_ports
from .conftest import redis_binary, required
from .otlp_json import Event, Link
from .plain_sdk import METRICS, Protocol, count_everything, meter_provider, send_messages, send_trace

Yaml: TypeAlias = "dict[str, Yaml] | list[Yaml] | str | int | float | bool | None"

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "http"])


@PROTOCOLS
@pytest.mark.parametrize("entrance", ["collector", "jaeger"])
def test_a_trace_is_read_back_as_it_was_sent(
    collector: Collector, jaeger: Jaeger, entrance: str, protocol: Protocol
) -> None:
    """Parents, times to the nanosecond, kinds, outcomes, events and links survive the way to Jaeger."""
    sent = send_trace(collector if entrance == "collector" else jaeger, protocol)
    root, llm, tool = jaeger.trace(sent.trace_id, spans=3)
    assert [int(span.span_id, 16) for span in (root, llm, tool)] == [sent.root, sent.llm, sent.tool]
    assert (root.parent_span_id, llm.parent_span_id, tool.parent_span_id) == (None, root.span_id, root.span_id)
    assert (root.start_ns, root.end_ns) == (sent.start_ns, sent.start_ns + 3_000_000_000)
    assert (llm.start_ns - sent.start_ns, llm.duration, tool.duration) == (1_000, 2.5, 0.1)
    assert (root.name, root.kind, llm.kind) == ("invoke_agent planner", "INTERNAL", "CLIENT")
    assert (root.status, tool.status, tool.status_message) == ("UNSET", "ERROR", "timed out")
    assert root.attributes == {"text": "tëxt", "whole": 2**53 + 1, "real": 0.5, "yes": True, "list": ["a", "b"]}
    assert tool.events == (Event("exception", sent.start_ns + 2_500_003_000, {"exception.type": "TimeoutError"}),)
    assert tool.links == (Link(llm.trace_id, llm.span_id, {"why": "asked for it"}),)
    assert (root.scope, root.resource["service.name"]) == ("plain_sdk", "plain_sdk")


@PROTOCOLS
def test_a_batch_full_of_messages_passes(collector: Collector, jaeger: Jaeger, protocol: Protocol) -> None:
    """A request of 6 MiB, over the default limit of every grpc receiver on the way, reaches Jaeger whole."""
    trace_id = send_messages(collector, protocol, spans=100, size=60_000)
    assert len(jaeger.trace(trace_id, spans=100)) == 100


def test_an_unknown_trace_is_a_timeout_that_says_so(jaeger: Jaeger) -> None:
    """Waiting for spans that never come ends with a message, not with an empty answer."""
    with pytest.raises(TimeoutError, match=r"Jaeger has 0 of 2 spans of trace 0{31}1"):
        jaeger.trace(1, spans=2, timeout=0.2)


def test_spans_are_kept_as_otlp_json_lines(collector: Collector, tmp_path: Path) -> None:
    """The Collector writes what it got as export requests, one per line, of which a test takes its own traces."""
    wanted, _other = send_trace(collector, "http"), send_trace(collector, "http")
    path = tmp_path / "spans.otlp.jsonl"
    spans = collector.otlp_json_lines(path, f"{wanted.trace_id:032x}", spans=3)
    assert sorted(int(span.span_id, 16) for span in spans) == sorted([wanted.root, wanted.llm, wanted.tool])
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(request["resourceSpans"][0]["scopeSpans"][0]["scope"]["version"] == "1.0" for request in requests)


@PROTOCOLS
def test_metrics_are_read_back_under_their_prometheus_names(collector: Collector, protocol: Protocol) -> None:
    """Dots become underscores, seconds and _total are appended, units in braces leave no trace."""
    service = f"names-over-{protocol}"
    count_everything(collector, protocol, service, amount=3)
    scraped = collector.metrics(METRICS[-1].prometheus, job=service)
    for metric in METRICS:
        if metric.instrument == "histogram":
            assert scraped.types[metric.prometheus] == "histogram"
            assert scraped.total(f"{metric.prometheus}_sum", job=service) == 3
            assert scraped.total(f"{metric.prometheus}_bucket", job=service, le="+Inf") == 1
        else:
            assert scraped.total(metric.prometheus, job=service, gen_ai_agent_name="planner") == 3, metric
    ours = {name for name in scraped.names if name.startswith(("agentbus_", "gen_ai_"))}
    endings = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "updown": ("",)}
    assert ours >= {metric.prometheus + end for metric in METRICS for end in endings[metric.instrument]}


def test_processes_of_one_service_count_apart(collector: Collector) -> None:
    """The labels job and instance are the service and its process, so that no counter overwrites another."""
    for process in ("first", "second"):
        provider = meter_provider(collector, "http", "twice", **{"service.instance.id": process})
        provider.get_meter("plain_sdk").create_counter("agentbus.tokens.used", "{token}").add(5)
        provider.shutdown()
    scraped = collector.metrics("agentbus_tokens_used_total", samples=2, job="twice")
    samples = scraped.select("agentbus_tokens_used_total", job="twice")
    assert {sample.labels["instance"]: sample.value for sample in samples} == {"first": 5, "second": 5}
    assert set(samples[0].labels) == {
        "job", "instance", "otel_scope_name", "otel_scope_version", "otel_scope_schema_url"
    }  # fmt: skip


def test_the_shipped_configuration_is_what_ran(collector: Collector) -> None:
    """The running Collector's configuration differs from the shipped one in addresses and the file of spans alone."""
    shipped = _effective(collector, [f"--config={COLLECTOR_CONFIG}"])
    running = _effective(collector, collector.config_arguments())
    changed = {key for key in shipped | running if shipped.get(key) != running.get(key)}
    assert {key for key in changed if not key.startswith("exporters::file::")} == {
        *collector.addresses,
        "service::pipelines::traces::exporters",
    }


def test_the_health_check_of_the_container_tells_well_from_unwell(collector: Collector) -> None:
    """The command in docker-compose.yml succeeds while the Collector answers, and fails when nobody does."""
    service = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["collector"]
    _cmd, binary, *arguments = service["healthcheck"]["test"]
    assert (binary, arguments[0], arguments[-1]) == ("/otelcol-contrib", "validate", "--config=http://127.0.0.1:13133/")
    for url, code in ((collector.health_url, 0), (f"http://127.0.0.1:{free_ports(1)[0]}/", 1)):
        command = [str(collector.binary), "validate", f"--config={COLLECTOR_CONFIG}", f"--config={url}"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    """A server that ends at once is not waited for, and its last words are in the error."""
    with pytest.raises(ServerFailed, match="unknown option --config"):
        Jaeger(Path(sys.executable), tmp_path).start()


def test_a_server_dies_with_a_killed_test_run() -> None:
    """Nothing is left behind even where no finalizer ran."""
    server = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    leashed = [sys.executable, str(LEASH), sys.executable, "-c", server]
    test_run = f"import subprocess, time; held = subprocess.Popen({leashed}, stdin=subprocess.PIPE); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", test_run], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert _is_alive(pid)
        process.send_signal(signal.SIGKILL)
    assert not eventually(lambda: _is_alive(pid), lambda alive: not alive, timeout=10)


def test_a_missing_backend_skips_for_a_user_and_fails_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence names the make target; AGENTBUS_REQUIRE_BACKENDS=1 turns the skip into a failure."""
    monkeypatch.setenv("AGENTBUS_BACKENDS_DIR", str(tmp_path))
    monkeypatch.delenv("AGENTBUS_REQUIRE_BACKENDS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make backends"):
        required("jaeger")
    monkeypatch.setenv("AGENTBUS_REQUIRE_BACKENDS", "1")
    with pytest.raises(pytest.fail.Exception, match="make backends"):
        required("jaeger")


def test_a_missing_redis_skips_for_a_user_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = pytest.skip.Exception, pytest.fail.Exception  # both are caught: a skip would make this a skipped test
    monkeypatch.setattr(redis_server, "BINARY", "a-server-that-nobody-has")
    monkeypatch.delenv("AGENTBUS_REQUIRE_BACKENDS", raising=False)
    with pytest.raises(outcomes, match="make backends") as for_a_user:
        redis_binary()
    monkeypatch.setenv("AGENTBUS_REQUIRE_BACKENDS", "1")
    with pytest.raises(outcomes, match="make backends") as in_ci:
        redis_binary()
    assert (for_a_user.type, in_ci.type) == outcomes


def test_no_proxy_stands_between(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness reads loopback directly, whatever proxy the environment names."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(httpx.ConnectError):
        httpx.get(collector.prometheus_url)
    assert collector.scrape() is not None


def test_a_metric_that_does_not_come_is_a_timeout_that_says_so(collector: Collector) -> None:
    """Waiting for samples that never come ends with a message that names them."""
    with pytest.raises(TimeoutError, match="shows 0 of 1 agentbus_no_such_total"):
        collector.metrics("agentbus_no_such_total", timeout=0.2)


def _effective(collector: Collector, arguments: list[str]) -> dict[str, Yaml]:
    """The whole configuration that the Collector makes of these arguments, defaults included, as key paths."""
    command = [str(collector.binary), "print-config", *arguments]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return dict(_flat(yaml.safe_load(printed)))


def _flat(value: Yaml, *path: str) -> list[tuple[str, Yaml]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, *path, key)]
    return [("::".join(path), value)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
