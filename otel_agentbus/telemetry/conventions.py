"""From events to span names and attributes, in the flavour of the GenAI conventions that the user has chosen.

Pure functions: the same event gives the same attributes in the same order, in every process. Each returns only what
OpenTelemetry can carry, leaves out what is not known, and puts what identifies a span last, because span limits take
the oldest attributes. Content is apart (`content_attributes`), so that only the place that may show it asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    Event,
    LlmRequest,
    LlmResponse,
    RecoveryCompleted,
    ToolCall,
    ToolCallStart,
)

from . import moments, names
from .accounts import account_of, mismatch, totals_reported, usage_totals
from .attributes import (
    ROOM,
    Attributes,
    AttributeValue,
    Named,
    identity,
    mapping,
    name,
    number,
    plain,
    put,
    put_name,
    whole,
)
from .moments import error_kind, error_of
from .names import Flavour
from .usage import count

#: A model call has more attributes of ours, so it may bring fewer of its own than `ROOM`.
LLM_ROOM = 15
#: How many counts beyond the five of the conventions one model call may have.
USAGE_ROOM = 9

_USAGE_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OPENAI = frozenset(("openai", "azure.ai.openai"))
_OUTPUTS = frozenset(("text", "json", "image", "speech"))

ToolEvent = ToolCallStart | ToolCall
DeploymentEnd = DeploymentCompleted | DeploymentFailed


def provider_name(value: object) -> str | None:
    """The provider under the conventions' name for it; an unknown one as it is given."""
    given = name(value)
    if given is None:
        return None
    lowered = given.lower()
    if lowered in names.PROVIDERS:
        return lowered
    return names.PROVIDER_ALIASES.get(lowered, given)


def outcome_attributes(outcome: str | None) -> Attributes:
    """How a span ended: what is written when a span is closed without an end event of its own, too."""
    said = name(outcome)
    return {} if said is None else {names.OUTCOME: said}


class Conventions:
    """The span names and attributes of one flavour; a span's start and end are apart, so that it can live meanwhile."""

    def __init__(self, flavour: Flavour = "1.41") -> None:
        if flavour not in names.FLAVOURS:
            choice = ", ".join(names.FLAVOURS)
            raise ConfigurationError(f"There is no flavour {flavour!r} of the conventions; take one of: {choice}")
        self.flavour = flavour
        self.schema_url = names.SCHEMA_URLS.get(flavour)
        self._old = flavour != "2026-10"
        self._new = flavour != "1.41"
        self._cache_write = names.CACHE_WRITE_TOKENS[flavour]

    error_of = staticmethod(moments.error_of)
    exception = staticmethod(moments.exception)
    content_attributes = staticmethod(moments.content_attributes)
    details = staticmethod(moments.details)
    moment = staticmethod(moments.moment)
    moment_span = staticmethod(moments.moment_span)
    outcome_attributes = staticmethod(outcome_attributes)

    # -- agents ---------------------------------------------------------------------------------------------------
    def agent_start(self, event: AgentStart) -> Named:
        """The agent span's name, and its attributes at its start."""
        return self._agent(event, _brought(event, ROOM, names.DROPPED_AT_START))

    def agent_start_from_end(self, event: AgentEnd) -> Named:
        """The same of a run whose start is lost."""
        return self._agent(event, {})

    def _agent(self, event: AgentStart | AgentEnd, attributes: Attributes) -> Named:
        attributes |= identity(event)
        self._model_of_agent(event, attributes)
        attributes[names.OPERATION] = "invoke_agent"
        agent = attributes.get(names.AGENT_NAME)
        return (f"invoke_agent {agent}" if agent else "invoke_agent"), attributes

    def _model_of_agent(self, event: AgentStart | AgentEnd, attributes: Attributes) -> None:
        put_name(attributes, names.REQUEST_MODEL, event.model)
        if self._old:  # an agent in this process has no provider in the newer flavour
            put(attributes, names.PROVIDER, provider_name(event.model_provider))

    def agent_end(self, event: AgentEnd, totals: Mapping[str, float] | None = None) -> Attributes:
        """The agent span's attributes at its end, with the sums over its run's model calls (see `usage.used_by`)."""
        attributes = _brought(event, ROOM, names.DROPPED_AT_END)
        attributes |= usage_totals(totals or {})
        _put_reported(attributes, event, totals)
        self._model_of_agent(event, attributes)
        _put_end(attributes, event)
        return attributes

    # -- model calls ----------------------------------------------------------------------------------------------
    def llm_start(self, event: LlmRequest) -> Named:
        """The model call span's name, and its attributes at its start."""
        attributes = _brought(event, LLM_ROOM, names.DROPPED_AT_START)
        provider = provider_name(event.model_provider)
        if event.parameters:
            self._put_parameters(attributes, mapping(event.parameters), provider)
        put(attributes, names.MESSAGES_COUNT, count(event.messages_count))
        if event.stream is True:  # absent means that the answer is not streamed
            attributes[names.STREAM] = True
        return _llm(event, attributes, name(event.operation) or "chat", provider)

    def llm_start_from_end(self, event: LlmResponse) -> Named:
        """The same of a call whose request is lost; it was a chat, as nearly all are."""
        return _llm(event, {}, "chat", provider_name(event.model_provider))

    def llm_end(self, event: LlmResponse) -> Attributes:
        """The model call span's attributes at its end."""
        attributes = _brought(event, LLM_ROOM, names.DROPPED_AT_END)
        self._put_usage(attributes, event)
        if event.service_tier is not None:
            key = names.OPENAI_RESPONSE_TIER if _is_openai(event) else names.SERVICE_TIER
            put_name(attributes, key, event.service_tier)
        put(attributes, names.TIME_TO_FIRST_CHUNK, _seconds(event.time_to_first_chunk))
        put(attributes, names.FINISH_REASONS, _texts(event.finish_reasons))
        put_name(attributes, names.RESPONSE_ID, event.response_id)
        put_name(attributes, names.RESPONSE_MODEL, event.response_model)
        _put_end(attributes, event)
        return attributes

    def _put_usage(self, attributes: Attributes, event: LlmResponse) -> None:
        usage, cost, status, saved, duplicate = account_of(event)
        if duplicate is not None:  # the counts stand on the span of the call that told of them first
            attributes[names.DUPLICATE] = duplicate
            if usage.input is None and usage.output is None and cost is None:
                return
        if event.usage:
            self._put_further_usage(attributes, mapping(event.usage))
        put(attributes, names.COST, cost)
        attributes[names.COST_STATUS] = status
        if saved:
            attributes[names.COST_SAVED] = saved
        put(attributes, names.REASONING_TOKENS, usage.reasoning)
        for key in self._cache_write:
            put(attributes, key, usage.cache_write)
        put(attributes, names.CACHE_READ_TOKENS, usage.cache_read)
        put(attributes, names.INPUT_TOKENS, usage.input)
        put(attributes, names.OUTPUT_TOKENS, usage.output)

    def _put_further_usage(self, attributes: Attributes, usage: Mapping[str, object]) -> None:
        counts = ((key, count(usage[key])) for key in sorted(usage) if _USAGE_KEY.fullmatch(key))
        for key, tokens in islice(((key, tokens) for key, tokens in counts if tokens is not None), USAGE_ROOM):
            modality = names.MODALITY_TOKENS.get(key)
            if self._new and modality is not None:
                attributes[modality] = tokens
            if self._old or modality is None:
                attributes[names.CALL_USAGE + key] = tokens

    def _put_parameters(self, attributes: Attributes, parameters: Mapping[str, object], provider: str | None) -> None:
        for key in sorted(key for key in parameters if key in names.PARAMETERS):
            attribute, rule, newer = names.PARAMETERS[key]
            if newer and not self._new:
                continue
            if rule == "tier" and provider not in _OPENAI:
                continue
            put(attributes, attribute, self._parameter(rule, parameters[key]))

    def _parameter(self, rule: names.Rule, value: object) -> AttributeValue | None:
        match rule:
            case "double":
                return number(value)
            case "int":
                return whole(value)
            case "top_k":  # the one attribute whose type differs: where both are wanted, the older one's
                return number(value) if self._old else _as_whole(value)
            case "choices":
                return whole(value) if value != 1 else None
            case "text":
                return name(value)
            case "texts":
                return _texts(value)
            case "tier":
                return name(value) if value != "auto" else None
            case "output":
                return _output_type(value)

    # -- tools ----------------------------------------------------------------------------------------------------
    def tool_start(self, event: ToolCallStart) -> Named:
        """The tool span's name, and its attributes at its start."""
        return _tool(event, _brought(event, ROOM, names.DROPPED_AT_START))

    def tool_start_from_end(self, event: ToolCall) -> Named:
        """The same of a call whose start is lost."""
        return _tool(event, {})

    def tool_end(self, event: ToolCall) -> Attributes:
        """The tool span's attributes at its end."""
        attributes = _brought(event, ROOM, names.DROPPED_AT_END)
        _put_end(attributes, event)
        return attributes

    # -- deployments ----------------------------------------------------------------------------------------------
    def deployment_start(self, event: DeploymentStarted) -> Named:
        """The deployment span's name, and its attributes at its start."""
        return "deployment", _deployment(event, _brought(event, ROOM, names.DROPPED_AT_START))

    def deployment_start_from_end(self, event: DeploymentEnd) -> Named:
        """The same of a deployment whose start is lost."""
        return "deployment", _deployment(event, {})

    def deployment_end(self, event: DeploymentEnd) -> Attributes:
        """The deployment span's attributes at its end."""
        attributes = _brought(event, ROOM, names.DROPPED_AT_END)
        if isinstance(event, DeploymentCompleted):
            put_name(attributes, names.REVISION, event.commit_sha)
            attributes[names.DEPLOYMENT_STATUS] = "succeeded"
            return attributes | outcome_attributes("ok")
        attributes[names.DEPLOYMENT_STATUS] = "failed"
        attributes[names.ERROR_TYPE] = "_OTHER"
        return attributes | outcome_attributes("error")

    def recovery_start(self, event: DeploymentFailed) -> Named:
        """The recovery span's name, and its attributes at its start, the failure."""
        return "recovery", _deployment(event, {})

    def recovery_start_from_end(self, event: RecoveryCompleted) -> Named:
        """The same of a recovery whose failure is lost."""
        return "recovery", _deployment(event, {})

    def recovery_end(self, event: RecoveryCompleted) -> Attributes:
        """The recovery span's attributes at its end."""
        return _brought(event, ROOM, names.DROPPED_AT_END) | outcome_attributes("ok")


def _brought(event: Event, room: int, dropped_as: str) -> Attributes:
    """What the event's own attributes say, first, so that ours overwrite and outlive them."""
    attributes, dropped = plain(event.attributes, room)
    if dropped:
        attributes[dropped_as] = dropped
    return attributes


def _put_end(attributes: Attributes, event: AgentEnd | LlmResponse | ToolCall) -> None:
    if event.outcome == "error":
        attributes[names.ERROR_TYPE] = error_kind(event.error_type)
    put_name(attributes, names.OUTCOME, event.outcome)


def _put_reported(attributes: Attributes, event: AgentEnd, totals: Mapping[str, float] | None) -> None:
    """The producer's own totals, for comparison, and which differ from the sums of the calls, if known."""
    for key, given in totals_reported(event).items():
        attributes[names.REPORTED + key] = given
    if totals is not None:
        put(attributes, names.MISMATCH, mismatch(event, totals) or None)


def _llm(event: LlmRequest | LlmResponse, attributes: Attributes, operation: str, provider: str | None) -> Named:
    attributes |= identity(event)
    model = name(event.model)
    put(attributes, names.REQUEST_MODEL, model)
    put(attributes, names.PROVIDER, provider)
    attributes[names.OPERATION] = operation
    return (f"{operation} {model}" if model else operation), attributes


def _tool(event: ToolEvent, attributes: Attributes) -> Named:
    attributes |= identity(event)
    tool = name(event.tool)
    put_name(attributes, names.TOOL_CALL_ID, event.tool_call_id)
    put(attributes, names.TOOL_NAME, tool)
    attributes[names.OPERATION] = "execute_tool"
    return (f"execute_tool {tool}" if tool else "execute_tool"), attributes


def _deployment(event: DeploymentStarted | DeploymentEnd | RecoveryCompleted, attributes: Attributes) -> Attributes:
    attributes |= identity(event)
    put_name(attributes, names.DEPLOYMENT_ID, event.deploy_id)
    return attributes


def _is_openai(event: LlmResponse) -> bool:
    return provider_name(event.model_provider) in _OPENAI


def _seconds(value: object) -> float | None:
    seconds = number(value)
    return seconds if seconds is not None and seconds >= 0 else None


def _as_whole(value: object) -> int | None:
    found = number(value)
    return int(found) if found is not None and found.is_integer() else None


def _texts(value: object) -> Sequence[str] | None:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return None
    said = [found for item in islice(value, 32) if (found := name(item)) is not None]
    return said or None


def _output_type(value: object) -> str | None:
    """`text`, `json`, `image`, `speech`, or what the common `response_format` of a request amounts to."""
    kind = value.get("type") if isinstance(value, Mapping) else value
    if not isinstance(kind, str):
        return None
    if kind in ("json_object", "json_schema"):
        return "json"
    return kind if kind in _OUTPUTS else None


__all__ = [
    "Conventions",
    "Flavour",
    "error_of",
    "outcome_attributes",
    "provider_name",
    "usage_totals",
]
