"""LEAVE: the spool for any program that OpenTelemetry instruments by itself: `OTEL_TRACES_EXPORTER=agentbus_spool`."""

from __future__ import annotations

from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.spool.exporter import SpoolingSpanExporter, sender_to


class SpoolExporter(SpoolingSpanExporter):
    """The exporter that the environment asks for: to the OTLP endpoint of `OTEL_EXPORTER_OTLP_*`, with a spool.

    Raises:
        ConfigurationError: a variable is wrong.

    """

    def __init__(self) -> None:
        settings = Settings(traces_exporter="otlp")  # what it is, whatever else the variable names
        target = settings.target("traces")
        super().__init__(
            sender_to(target),
            settings.spool,
            max_bytes=settings.spool_max_bytes,
            max_age=settings.spool_max_age,
            timeout=target.timeout,
            exit_timeout=settings.exit_timeout,
        )
