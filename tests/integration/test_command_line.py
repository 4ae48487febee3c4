"""The command line against the real servers: what a new user runs first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .backends import Collector, Jaeger

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`otel-agentbus` with these arguments and, of the variables that matter, only these."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    return subprocess.run(
        [sys.executable, "-m", "otel_agentbus", *arguments],
        cwd=ROOT,
        env=environment | {"COLUMNS": "120"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_demo_exports_and_tells_where_its_trace_is(collector: Collector, jaeger: Jaeger) -> None:
    done = run("demo", "--fast", OTEL_EXPORTER_OTLP_ENDPOINT=collector.otlp_http_endpoint)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"http://localhost:16686/trace/([0-9a-f]{32})", done.stdout)
    assert found is not None, done.stdout
    spans = jaeger.trace(found[1], spans=15)
    assert [span.name for span in spans if span.parent_span_id is None] == ["invoke_agent planner"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_doctor_is_content_with_a_collector(collector: Collector, protocol: str) -> None:
    endpoint = collector.otlp_grpc_endpoint if protocol == "grpc" else collector.otlp_http_endpoint
    done = run("doctor", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("accepted") >= 2


def test_doctor_says_that_a_jaeger_refuses_metrics(jaeger: Jaeger) -> None:
    done = run("doctor", OTEL_EXPORTER_OTLP_ENDPOINT=jaeger.otlp_http_endpoint)
    assert done.returncode == 1
    assert "OTEL_METRICS_EXPORTER=none" in done.stdout


def test_doctor_tells_the_grpc_port_from_the_http_port(collector: Collector) -> None:
    done = run("doctor", OTEL_EXPORTER_OTLP_ENDPOINT=collector.otlp_grpc_endpoint)
    assert done.returncode == 1
    assert "is a gRPC port" in done.stdout
