"""The OpenTelemetry scopes of what instruments agent frameworks: which adapter of ours tells the same.

Where a framework's own adapter is on, the spans of its scopes are passed over by the adapter "otel": one of the two is
silent. The scopes of model clients (OpenAI's, Anthropic's ...) are never passed over: such a span inside a framework's
model call is of the same call, which the ledger finds out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

#: The scope of our own spans, which are never read.
OURS: Final = "otel_agentbus"

#: What instruments a framework under the framework's own name.
_FAMILIES: Final = (
    "openinference.instrumentation",
    "opentelemetry.instrumentation",
    "opentelemetry.instrumentation.genai",
    "logfire",
)

#: By adapter: the scopes of the framework's own spans, and the names under which others instrument it.
_FRAMEWORKS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "pydantic-ai": (("pydantic-ai",), ("pydantic_ai", "pydantic-ai")),
    "langchain": (("langsmith",), ("langchain", "langgraph")),
    "openai-agents": ((), ("openai_agents", "openai_agents_v2", "openai-agents")),
    "crewai": (("crewai.telemetry",), ("crewai",)),
    "google-adk": (("gcp.vertex.agent",), ("google_adk", "google-adk")),
    "llama-index": ((), ("llama_index", "llamaindex", "llama-index")),
    "strands": (("strands.telemetry.tracer",), ("strands", "strands_agents")),
    "agent-framework": (("agent_framework",), ("agent_framework",)),
    "claude-agent-sdk": (("com.anthropic.claude_code",), ("claude_agent_sdk", "claude-agent-sdk")),
    "mcp": (("mcp-python-sdk",), ("mcp",)),
}

#: The scopes of what speaks for itself and is of no one framework.
_CLIENTS: Final = ("com.anthropic.sdk.python", "openlit", "traceloop.")


def _scopes(own: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return (*own, *(f"{family}.{name}" for family in _FAMILIES for name in names))


#: By adapter: the scopes that are silent while it is on; what stands below one of them ("langchain.v1") is of it.
SCOPES: Final[Mapping[str, tuple[str, ...]]] = {name: _scopes(*said) for name, said in _FRAMEWORKS.items()}

_BY_SCOPE: Final = {scope: name for name, scopes in SCOPES.items() for scope in scopes}


def adapter_of(scope: str) -> str | None:
    """The adapter that observes the same framework as the spans of this scope; None for any other scope."""
    while scope:
        found = _BY_SCOPE.get(scope)
        if found is not None:
            return found
        scope = scope.rpartition(".")[0]
    return None


def silent(scope: str, active: Collection[str]) -> str | None:
    """The active adapter because of which this scope's spans are passed over; None where they are read."""
    found = adapter_of(scope)
    return found if found is not None and found in active else None


def silenced(active: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each active adapter with the scopes that are silent because of it."""
    for name, scopes in SCOPES.items():
        if name in active:
            yield name, scopes


def in_short(adapter: str) -> str:
    """The scopes that are silent while this adapter is on, in a few words."""
    own, names = _FRAMEWORKS[adapter]
    return ", ".join((*own, f"and what others make of {', '.join(names)}"))


def is_known(scope: str) -> bool:
    """Whether spans of this scope are of agents or models, though they may say so only at their end."""
    return adapter_of(scope) is not None or scope.startswith((*_CLIENTS, "openinference."))


__all__ = ["OURS", "SCOPES", "adapter_of", "in_short", "is_known", "silenced", "silent"]
