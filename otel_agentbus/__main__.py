"""`python -m otel_agentbus`: the command line."""

from __future__ import annotations

from otel_agentbus.cli import app

app(prog_name="otel-agentbus")
