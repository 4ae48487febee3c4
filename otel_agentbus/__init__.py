"""What your AI agents did, as OpenTelemetry spans and metrics."""

from importlib import import_module
from typing import TYPE_CHECKING

from . import events
from ._version import __version__
from .adapters import instrument
from .budgets import Budget, BudgetCheck
from .carriers import extract, inject, resume
from .elsewhere import InvocationExecutor, carry
from .errors import AgentBusError, BudgetExceeded
from .invocation import Invocation, current
from .observe import agent, llm, stream, tool
from .router import Router, Subscription
from .settings import Settings

if TYPE_CHECKING:
    from .bus import Bus, connect
    from .recording import Recorder
    from .recovery import recover, replay
    from .telemetry.metrics import MetricsBridge
    from .telemetry.spans import SpanBridge
    from .telemetry.spool import SpoolingSpanExporter

__all__ = [
    "AgentBusError",
    "Budget",
    "BudgetCheck",
    "BudgetExceeded",
    "Bus",
    "Invocation",
    "InvocationExecutor",
    "MetricsBridge",
    "Recorder",
    "Router",
    "Settings",
    "SpanBridge",
    "SpoolingSpanExporter",
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
    "recover",
    "replay",
    "resume",
    "stream",
    "tool",
]

#: What needs the OpenTelemetry SDK is imported when it is asked for: a library that only has blocks never pays for it.
_LATE = {
    "Bus": "bus",
    "connect": "bus",
    "MetricsBridge": "telemetry.metrics",
    "Recorder": "recording",
    "SpanBridge": "telemetry.spans",
    "SpoolingSpanExporter": "telemetry.spool",
    "recover": "recovery",
    "replay": "recovery",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_LATE[name]}")
    except ValueError:  # the SDK reads some variables while it is imported, and says little of what is wrong
        Settings()  # says it
        raise
    found: object = getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *_LATE]
