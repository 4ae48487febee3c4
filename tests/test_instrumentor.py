"""OpenTelemetry's own starter, `opentelemetry-instrument`, observes an unmodified program by our entry point."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from otel_agentbus import adapters, testing
from otel_agentbus.instrumentor import AgentBusInstrumentor

from .receivers import HttpReceiver
from .test_cli_run import AGENT, clean, exporting, spans_of


@pytest.mark.parametrize("configured", [True, False], ids=["with its distribution", "without a distribution"])
def test_an_unmodified_program_is_observed(tmp_path: Path, configured: bool) -> None:
    (tmp_path / "app.py").write_text(AGENT)
    environment = {} if configured else {"OTEL_PYTHON_CONFIGURATOR": "none", "OTEL_PYTHON_DISTRO": "none"}
    starter = Path(sys.executable).with_name("opentelemetry-instrument")
    with HttpReceiver() as receiver:
        done = subprocess.run(
            [starter, sys.executable, "app.py"],
            cwd=tmp_path,
            env=clean(**exporting(receiver), OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf", **environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        assert spans_of(receiver) == {"invoke_agent clerk", "chat test"}


def test_it_is_found_by_its_entry_point() -> None:
    [found] = entry_points(group="opentelemetry_instrumentor", name="agentbus")
    assert found.load() is AgentBusInstrumentor


async def test_it_is_on_until_it_is_switched_off() -> None:
    with testing.capture() as seen:
        AgentBusInstrumentor().instrument(skip_dep_check=True)
        try:
            assert set(adapters.active()) >= {"pydantic-ai"}
            await Agent(TestModel(custom_output_text="done"), name="clerk").run("go")
        finally:
            AgentBusInstrumentor().uninstrument()
        await Agent(TestModel(custom_output_text="done"), name="later").run("go")
    assert adapters.active() == {}
    seen.assert_tree("""
        invoke_agent clerk
        └─ chat test
    """)
