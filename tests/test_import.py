"""Importing the package costs little and changes nothing."""

from __future__ import annotations

import pytest

from .receivers import in_a_process_of_its_own

LOADED = """
import json, sys, threading
{code}
print(json.dumps([sorted(sys.modules), [thread.name for thread in threading.enumerate()]]))
"""
#: What a program that only imports and annotates must not pay for.
HEAVY = (
    "opentelemetry.exporter",
    "grpc",
    "google.protobuf",
    "requests",
    "urllib3",
    "rich",
    "typer",
    "redis",
    "otel_agentbus.feeding",
    "otel_agentbus.journal.redis",
    "pydantic_ai",
    "genai_prices",
    "httpx",
)


def heavy_after(code: str) -> list[str]:
    """The heavy modules that this code loads; no thread may run after it."""
    modules, threads = in_a_process_of_its_own(LOADED.format(code=code))
    plain = in_a_process_of_its_own(LOADED.format(code=""))[0]
    assert threads == ["MainThread"]
    return [module for module in modules if module not in plain and module.startswith(HEAVY)]


def test_importing_loads_nothing_heavy_and_starts_no_thread() -> None:
    assert heavy_after("import otel_agentbus") == []


@pytest.mark.parametrize("module", ["events", "errors", "settings"])
def test_the_small_modules_load_nothing_heavy(module: str) -> None:
    assert heavy_after(f"import otel_agentbus.{module}") == []


def test_blocks_without_a_bus_load_nothing_heavy() -> None:
    code = "import otel_agentbus as b\nwith b.agent('a') as run, run.llm('m') as call: call.record(input_tokens=1)"
    assert heavy_after(code) == []


def test_connecting_with_nothing_configured_loads_no_exporter_and_leaves_no_thread() -> None:
    code = """
import time
import otel_agentbus
with otel_agentbus.connect():
    with otel_agentbus.agent("a"):
        pass
deadline = time.monotonic() + 10
while threading.active_count() > 1 and time.monotonic() < deadline:
    time.sleep(0.01)
"""
    assert heavy_after(code) == []


def test_importing_reads_no_variable_and_sets_no_global() -> None:
    """A wrong variable is told by connect(), not by the import."""
    code = """
import json
import otel_agentbus
from opentelemetry import metrics, trace
print(json.dumps([type(trace.get_tracer_provider()).__name__, type(metrics.get_meter_provider()).__name__]))
"""
    wrong = {"AGENTBUS_GRACE": "soon", "OTEL_TRACES_SAMPLER": "sometimes", "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"}
    assert in_a_process_of_its_own(code, **wrong) == ["ProxyTracerProvider", "_ProxyMeterProvider"]


def test_importing_it_twice_in_one_program_is_importing_it_once() -> None:
    code = """
import importlib, json, sys
import otel_agentbus
from otel_agentbus.attachment import process
before = process
importlib.import_module("otel_agentbus.bus")
print(json.dumps(process is sys.modules["otel_agentbus.attachment"].process is before))
"""
    assert in_a_process_of_its_own(code) is True
