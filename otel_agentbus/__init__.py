"""What your AI agents did, as OpenTelemetry spans and metrics."""

from . import events
from ._version import __version__
from .adapters import instrument
from .bus import Bus, connect
from .carriers import extract, inject, resume
from .errors import AgentBusError
from .invocation import Invocation, InvocationExecutor, carry, current
from .observe import agent, llm, stream, tool
from .router import Router, Subscription
from .settings import Settings
from .telemetry.metrics import MetricsBridge
from .telemetry.spans import SpanBridge

__all__ = [
    "AgentBusError",
    "Bus",
    "Invocation",
    "InvocationExecutor",
    "MetricsBridge",
    "Router",
    "Settings",
    "SpanBridge",
    "Subscription",
    "__version__",
    "agent",
    "carry",
    "connect",
    "current",
    "events",
    "extract",
    "inject",
    "instrument",
    "llm",
    "resume",
    "stream",
    "tool",
]
