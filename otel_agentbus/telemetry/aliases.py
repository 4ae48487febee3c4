"""The names that other backends have for cost, session and kind, beside ours: AGENTBUS_ALIASES says for which.

The GenAI conventions have no attribute for cost and few for sessions and kinds, so every backend made its own. An alias
repeats what a span says already, under the other name; nothing is taken away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from typing import Final, Literal, NamedTuple, TypeAlias

from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart

from . import moments, names
from .attributes import Attributes, AttributeValue, Named
from .conventions import Conventions
from .names import Flavour

Said: TypeAlias = "Mapping[str, AttributeValue]"
#: On which spans an alias stands.
Kind = Literal["agent", "llm", "tool"]

_EMBEDDINGS: Final = "embeddings"
#: OpenInference names who hosts a model, and whose interface it has.
_HOSTS: Final[Mapping[str, tuple[str, str | None]]] = {
    "openai": ("openai", "openai"),
    "anthropic": ("anthropic", "anthropic"),
    "azure.ai.openai": ("azure", "openai"),
    "azure.ai.inference": ("azure", None),
    "aws.bedrock": ("aws", None),
    "cohere": ("cohere", "cohere"),
    "deepseek": ("deepseek", None),
    "gcp.gemini": ("google", None),
    "gcp.gen_ai": ("google", None),
    "gcp.vertex_ai": ("google", "vertexai"),
    "groq": ("groq", None),
    "mistral_ai": ("mistralai", "mistralai"),
    "moonshot_ai": ("moonshot", None),
    "perplexity": ("perplexity", None),
    "x_ai": ("xai", None),
}


class Alias(NamedTuple):
    """One name more: for whom, on which spans, and what it says, made of what the span says; None for nothing."""

    family: str
    kinds: tuple[Kind, ...]
    name: str
    said: Callable[[Said], AttributeValue | None]


def _same(key: str) -> Callable[[Said], AttributeValue | None]:
    return lambda said: said.get(key)


def _kind(default: str, **others: str) -> Callable[[Said], AttributeValue | None]:
    """What kind of span it is, said at its start; others by the operation."""
    return lambda said: others.get(str(said[names.OPERATION]), default) if names.OPERATION in said else None


def _first(*keys: str) -> Callable[[Said], AttributeValue | None]:
    return lambda said: next((said[key] for key in keys if key in said), None)


def _model(said: Said) -> AttributeValue | None:
    return None if said.get(names.OPERATION) == _EMBEDDINGS else said.get(names.REQUEST_MODEL)


def _embedding_model(said: Said) -> AttributeValue | None:
    return said.get(names.REQUEST_MODEL) if said.get(names.OPERATION) == _EMBEDDINGS else None


def _total(said: Said) -> AttributeValue | None:
    input_tokens, output_tokens = said.get(names.INPUT_TOKENS), said.get(names.OUTPUT_TOKENS)
    return input_tokens + output_tokens if isinstance(input_tokens, int) and isinstance(output_tokens, int) else None


def _host(which: Literal[0, 1]) -> Callable[[Said], AttributeValue | None]:
    def said(said: Said) -> AttributeValue | None:
        provider = said.get(names.PROVIDER)
        if provider is None:
            return None
        return _HOSTS.get(str(provider), (str(provider), None))[which]

    return said


def _cost_details(said: Said) -> AttributeValue | None:
    return json.dumps({"total": said[names.COST]}) if names.COST in said else None


def _if_cost(value: Callable[[Said], str]) -> Callable[[Said], AttributeValue | None]:
    return lambda said: value(said) if names.COST in said else None


def _source(said: Said) -> str:
    return "provider" if said.get(names.COST_STATUS) == "reported" else "local"


def _json(*keys: str) -> Callable[[Said], AttributeValue | None]:
    """The media type of a captured content, where there is one."""
    return lambda said: "application/json" if any(key in said for key in keys) else None


_ALL: Final[tuple[Kind, ...]] = ("agent", "llm", "tool")
_CACHE_WRITE: Final = ("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write.input_tokens")
_INPUTS: Final = (names.INPUT_MESSAGES, names.TOOL_ARGUMENTS)
_OUTPUTS: Final = (names.OUTPUT_MESSAGES, names.TOOL_RESULT)

#: All of them. Sources: the OpenInference semantic conventions 0.1.42; Langfuse's, LangSmith's, Logfire's and Sentry's
#: documentation of OpenTelemetry attributes; OpenLIT's SDK; the GenAI conventions' open proposal for cost.
TABLE: Final[tuple[Alias, ...]] = (
    Alias("langfuse", ("agent",), "langfuse.observation.type", _kind("agent")),
    Alias("langfuse", ("llm",), "langfuse.observation.type", _kind("generation", embeddings="embedding")),
    Alias("langfuse", ("tool",), "langfuse.observation.type", _kind("tool")),
    Alias("langfuse", _ALL, "langfuse.session.id", _same(names.CONVERSATION)),
    Alias("langfuse", ("llm",), "langfuse.observation.cost_details", _cost_details),
    Alias("langsmith", ("agent",), "langsmith.span.kind", _kind("chain")),
    Alias("langsmith", ("llm",), "langsmith.span.kind", _kind("llm", embeddings="embedding")),
    Alias("langsmith", ("tool",), "langsmith.span.kind", _kind("tool")),
    Alias("langsmith", _ALL, "langsmith.metadata.session_id", _same(names.CONVERSATION)),
    Alias("logfire", ("llm",), "operation.cost", _same(names.COST)),
    Alias("openinference", ("agent",), "openinference.span.kind", _kind("AGENT")),
    Alias("openinference", ("llm",), "openinference.span.kind", _kind("LLM", embeddings="EMBEDDING")),
    Alias("openinference", ("tool",), "openinference.span.kind", _kind("TOOL")),
    Alias("openinference", _ALL, "session.id", _same(names.CONVERSATION)),
    Alias("openinference", ("agent",), "agent.name", _same(names.AGENT_NAME)),
    Alias("openinference", ("tool",), "tool.name", _same(names.TOOL_NAME)),
    Alias("openinference", ("tool",), "tool.id", _same(names.TOOL_CALL_ID)),
    Alias("openinference", ("tool",), "tool.parameters", _same(names.TOOL_ARGUMENTS)),
    Alias("openinference", ("llm",), "embedding.model_name", _embedding_model),
    Alias("openinference", ("llm",), "llm.model_name", _model),
    Alias("openinference", ("llm",), "llm.response.model_name", _same(names.RESPONSE_MODEL)),
    Alias("openinference", ("llm",), "llm.provider", _host(0)),
    Alias("openinference", ("llm",), "llm.system", _host(1)),
    Alias("openinference", ("llm",), "llm.token_count.prompt", _same(names.INPUT_TOKENS)),
    Alias("openinference", ("llm",), "llm.token_count.completion", _same(names.OUTPUT_TOKENS)),
    Alias("openinference", ("llm",), "llm.token_count.total", _total),
    Alias("openinference", ("llm",), "llm.token_count.prompt_details.cache_read", _same(names.CACHE_READ_TOKENS)),
    Alias("openinference", ("llm",), "llm.token_count.prompt_details.cache_write", _first(*_CACHE_WRITE)),
    Alias("openinference", ("llm",), "llm.token_count.completion_details.reasoning", _same(names.REASONING_TOKENS)),
    Alias("openinference", ("llm",), "llm.cost.total", _same(names.COST)),
    Alias("openinference", _ALL, "input.value", _first(*_INPUTS)),
    Alias("openinference", _ALL, "input.mime_type", _json(*_INPUTS)),
    Alias("openinference", _ALL, "output.value", _first(*_OUTPUTS)),
    Alias("openinference", _ALL, "output.mime_type", _json(*_OUTPUTS)),
    Alias("openlit", ("llm",), "gen_ai.usage.cost", _same(names.COST)),
    Alias("proposal", ("llm",), "gen_ai.usage.cost.amount", _same(names.COST)),
    Alias("proposal", ("llm",), "gen_ai.usage.cost.currency", _if_cost(lambda _: "USD")),
    Alias("proposal", ("llm",), "gen_ai.usage.cost.source", _if_cost(_source)),
    Alias("sentry", ("agent",), "gen_ai.operation.type", _kind("agent")),
    Alias("sentry", ("llm",), "gen_ai.operation.type", _kind("ai_client")),
    Alias("sentry", ("tool",), "gen_ai.operation.type", _kind("tool")),
    Alias("sentry", ("llm",), "gen_ai.cost.total_tokens", _same(names.COST)),
)
#: For whom there are aliases.
FAMILIES: Final = tuple(family for family, _ in groupby(alias.family for alias in TABLE))

_KINDS: Final[Mapping[type[Event], Kind]] = {
    AgentStart: "agent",
    AgentEnd: "agent",
    LlmRequest: "llm",
    LlmResponse: "llm",
    ToolCallStart: "tool",
    ToolCall: "tool",
}


class AliasedConventions(Conventions):
    """The conventions, and the aliases of these families, which stand first: a span's limits take the oldest."""

    def __init__(self, flavour: Flavour, families: Collection[str]) -> None:
        super().__init__(flavour)
        wanted = [alias for alias in TABLE if alias.family in families]
        self._wanted = {kind: [alias for alias in wanted if kind in alias.kinds] for kind in _ALL}

    def _with(self, kind: Kind, attributes: Attributes) -> Attributes:
        more = {alias.name: alias.said(attributes) for alias in self._wanted[kind]}
        return {name: value for name, value in more.items() if value is not None} | attributes

    def _named(self, kind: Kind, named: Named) -> Named:
        return named[0], self._with(kind, named[1])

    def agent_start(self, event: AgentStart) -> Named:
        return self._named("agent", super().agent_start(event))

    def agent_start_from_end(self, event: AgentEnd) -> Named:
        return self._named("agent", super().agent_start_from_end(event))

    def agent_end(self, event: AgentEnd, totals: Mapping[str, float] | None = None) -> Attributes:
        return self._with("agent", super().agent_end(event, totals))

    def llm_start(self, event: LlmRequest) -> Named:
        return self._named("llm", super().llm_start(event))

    def llm_start_from_end(self, event: LlmResponse) -> Named:
        return self._named("llm", super().llm_start_from_end(event))

    def llm_end(self, event: LlmResponse) -> Attributes:
        return self._with("llm", super().llm_end(event))

    def tool_start(self, event: ToolCallStart) -> Named:
        return self._named("tool", super().tool_start(event))

    def tool_start_from_end(self, event: ToolCall) -> Named:
        return self._named("tool", super().tool_start_from_end(event))

    def tool_end(self, event: ToolCall) -> Attributes:
        return self._with("tool", super().tool_end(event))

    def content_attributes(self, event: Event) -> Attributes:
        kind, attributes = _KINDS.get(event.__class__), moments.content_attributes(event)
        return attributes if kind is None or not attributes else self._with(kind, attributes)


def conventions_of(flavour: Flavour, families: Collection[str] = ()) -> Conventions:
    """The conventions of this flavour, with the aliases of these families."""
    return AliasedConventions(flavour, families) if families else Conventions(flavour)


__all__ = ["FAMILIES", "TABLE", "Alias", "AliasedConventions", "conventions_of"]
