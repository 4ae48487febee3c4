"""`otel-agentbus run` on an unmodified program of each framework: its traces are in Jaeger, through the Collector."""

from __future__ import annotations

import os
import subprocess
import uuid

import pytest

from ..environments import ROOT
from ..frameworks.places import PLACES, Place
from ..outlines import Row, outline
from .backends import Collector, Jaeger, eventually
from .conftest import missing

TREES = ROOT / "tests" / "frameworks" / "trees"
FRAMEWORKS = [(framework, place) for place in PLACES for framework in place.frameworks]


def drawn(jaeger: Jaeger, service: str) -> str:
    """Every trace of this service, each drawn."""
    spans = [span for trace in jaeger.traces(service) for span in jaeger.spans(trace)]
    return outline(
        Row(span.span_id, span.parent_span_id, span.name, span.attributes, span.status == "ERROR") for span in spans
    )


@pytest.mark.parametrize(("framework", "place"), FRAMEWORKS, ids=[framework for framework, _ in FRAMEWORKS])
def test_an_unmodified_program_is_in_jaeger(framework: str, place: Place, jaeger: Jaeger, collector: Collector) -> None:
    environment = place.environment
    if not environment.is_ready:
        missing(f"The environment of {place.name} is not made: `make backends` does it.")
    name = framework.replace("-", "_")
    service = f"{framework}-{uuid.uuid4().hex[:8]}"
    inherited = {key: value for key, value in environment.variables().items() if not key.startswith("OTEL_")}
    variables = {
        **inherited,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp_http_endpoint,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": service,
        "PYTHONWARNINGS": "ignore",
        # frameworks that speak to their makers
        "OPENAI_AGENTS_DISABLE_TRACING": "0",
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TRACING_ENABLED": "false",
    }
    program = str(ROOT / "examples" / f"with_{name}.py")
    plain, observed = (
        subprocess.run(
            [str(environment.python), *before, program],
            env=variables,
            cwd=os.path.dirname(program),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        for before in ([], ["-m", "otel_agentbus", "run"])
    )

    assert (observed.returncode, observed.stdout) == (plain.returncode, plain.stdout), observed.stderr
    assert observed.returncode == 0, observed.stderr
    expected = (TREES / f"{name}.txt").read_text("utf-8").strip()
    assert eventually(lambda: drawn(jaeger, service), lambda found: found == expected, 15.0) == expected
