"""Targets and batches for the tests of senders, and a sender that is always shut down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from otel_agentbus.targets import Target
from otel_agentbus.telemetry.otlp import Batch
from otel_agentbus.telemetry.senders.verdict import Sender

S = TypeVar("S", bound=Sender)


def target(endpoint: str, **changed: Any) -> Target:
    """A target for traces in plain text without headers, but for what is changed."""
    told: dict[str, Any] = {
        "signal": "traces",
        "protocol": "http/protobuf" if "://" in endpoint else "grpc",
        "endpoint": endpoint,
        "timeout": 10.0,
        "compression": "none",
        "insecure": not endpoint.startswith("https"),
        "certificate": None,
        "client_key": None,
        "client_certificate": None,
        "credential_provider": None,
        "headers": (),
        "withheld": frozenset(),
    }
    return Target(**{**told, **changed})


def batch(*names: str, **attributes: Any) -> Batch:
    """Spans of these names."""
    resource = Resource({"service.name": "test"})
    context = SpanContext(1, 2, is_remote=False)
    return Batch(
        spans=[ReadableSpan(name, context, resource=resource, attributes=attributes) for name in names or ("span",)]
    )


@contextmanager
def closing(sender: S) -> Iterator[S]:
    """The sender, shut down afterwards."""
    try:
        yield sender
    finally:
        sender.shutdown()
