"""What pydantic-ai says about its runs, in the words of our events: its spans' attributes and its message objects."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider
from pydantic_ai.exceptions import ToolFailedError, ToolRetryError
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse
from pydantic_ai.models.instrumented import InstrumentationSettings

from ... import observe
from ...observe import AgentBlock, LlmBlock, ToolBlock
from ..plain import structured

if TYPE_CHECKING:
    from pydantic_ai.models import ModelRequestContext

Kind = Literal["agent", "llm", "tool"]
Attributes = Mapping[str, Any]

RUN_ID = "gen_ai.agent.call.id"
REQUEST_MODEL = "gen_ai.request.model"

_KINDS: Mapping[str, Kind] = {"invoke_agent": "agent", "chat": "llm", "execute_tool": "tool"}
_REQUEST = "gen_ai.request."
_DETAILS = "gen_ai.usage.details."
_ADDRESS = ("server.address", "server.port")
#: What pydantic-ai says beyond the conventions and what is no content; it travels as attributes of our events.
_EXTRA = ("pydantic_ai.tool.retry.", "pydantic_ai.tool.failure_stage", "pydantic_ai.tool.deferral.name",
          "pydantic_ai.output.retry.", "pydantic_ai.cache.", "pydantic_ai.realtime")  # fmt: skip
#: Counts that have a field of their own.
_COUNTED = frozenset({"cache_read_tokens", "cache_write_tokens", "reasoning_tokens"})
#: Where pydantic-ai keeps the requests that are being prepared.
_IN_FLIGHT = ("pydantic_ai._instrumentation", "_model_request_span_captures")
_CUT_SHORT = frozenset({"incomplete", "interrupted"})


def kind_of(name: str, attributes: Attributes) -> Kind | None:
    """Whether this span of the framework's is a run, a model call or a tool call; None for anything else."""
    operation = attributes.get("gen_ai.operation.name") or name.partition(" ")[0]
    return _KINDS.get(operation) if isinstance(operation, str) else None


def agent_block(attributes: Attributes) -> AgentBlock:
    """The run that begins with these attributes, under the run id that pydantic-ai gave it."""
    return observe.agent(
        attributes.get("gen_ai.agent.name") or "agent",
        model=attributes.get(REQUEST_MODEL) or attributes.get("model_name"),
        provider=attributes.get("gen_ai.provider.name"),
        invocation_id=attributes.get(RUN_ID) or None,
        conversation_id=attributes.get("gen_ai.conversation.id") or None,
        **_extra(attributes),
    )


def llm_block(
    attributes: Attributes,
    messages: list[Any] | None = None,
    stream: bool | None = None,
    count: int | None = None,
) -> LlmBlock:
    """The model call that is about to be sent, with what was asked and how."""
    parameters = {
        key.removeprefix(_REQUEST): value
        for key, value in attributes.items()
        if key.startswith(_REQUEST) and key != REQUEST_MODEL
    }
    server = {key: attributes[key] for key in _ADDRESS if key in attributes}
    return observe.llm(
        attributes[REQUEST_MODEL],
        provider=attributes.get("gen_ai.provider.name"),
        stream=stream,
        messages=messages,
        messages_count=count if messages is None else len(messages),
        parameters=parameters or None,
        **server,
    )


def tool_block(attributes: Attributes, tool_call_id: str | None, *, content: bool) -> ToolBlock:
    """The tool call that begins with these attributes."""
    arguments = attributes.get("gen_ai.tool.call.arguments", attributes.get("tool_arguments"))
    return observe.tool(
        attributes.get("gen_ai.tool.name") or "tool",
        tool_call_id=tool_call_id,
        arguments=structured(arguments) if content else None,
    )


def agent_end(attributes: Attributes, providers: Collection[str], *, content: bool) -> dict[str, Any]:
    """What a run's end says; its own totals are for comparison, never added to the calls'.

    The provider is known from the calls only; a run that asked several has none of its own.
    """
    fields: dict[str, Any] = {
        "output": structured(attributes.get("final_result")) if content else None,
        "model_provider": next(iter(providers)) if len(providers) == 1 else None,
    }
    for prefix in ("gen_ai.aggregated_usage.", "gen_ai.usage."):
        given = {key: attributes.get(prefix + key) for key in ("input_tokens", "output_tokens")}
        tokens = {key: value for key, value in given.items() if value is not None}
        if tokens:
            fields["tokens_used"] = tokens
            break
    return fields | _extra(attributes)


def llm_end(attributes: Attributes, response: ModelResponse | None, *, content: bool) -> dict[str, Any]:
    """What a model call's end says: usage as pydantic-ai has normalised it, and the answer."""
    details = {key.removeprefix(_DETAILS): value for key, value in attributes.items() if key.startswith(_DETAILS)}
    further = {key: value for key, value in details.items() if key not in _COUNTED and isinstance(value, int)}
    reasons = attributes.get("gen_ai.response.finish_reasons")
    fields: dict[str, Any] = {
        "input_tokens": attributes.get("gen_ai.usage.input_tokens"),
        "output_tokens": attributes.get("gen_ai.usage.output_tokens"),
        "cache_read_input_tokens": attributes.get("gen_ai.usage.cache_read.input_tokens"),
        "cache_write_input_tokens": attributes.get("gen_ai.usage.cache_creation.input_tokens"),
        "reasoning_output_tokens": details.get("reasoning_tokens"),
        "usage": further or None,
        "response_model": attributes.get("gen_ai.response.model"),
        "response_id": attributes.get("gen_ai.response.id"),
        "finish_reasons": None if reasons is None else list(reasons),
        "time_to_first_chunk": attributes.get("gen_ai.client.operation.time_to_first_chunk"),
    }
    if response is not None:
        _from_response(fields, response, str(attributes.get("gen_ai.provider.name", "")))
        if content:
            fields["messages"] = list(_convert([response]))
    return fields | _extra(attributes)


def _from_response(fields: dict[str, Any], response: ModelResponse, asked: str) -> None:
    usage = response.usage
    if fields["reasoning_output_tokens"] is None:
        fields["reasoning_output_tokens"] = getattr(usage, "output_reasoning_tokens", 0) or None
    hour = getattr(usage, "cache_write_1h_tokens", 0)
    if hour:
        fields["usage"] = {**(fields["usage"] or {}), "cache_write_1h_tokens": hour}
    if asked.startswith("fallback:") and response.provider_name:
        fields["model_provider"], fields["model"] = response.provider_name, response.model_name
    tier = (response.provider_details or {}).get("service_tier")
    if isinstance(tier, str):
        fields["service_tier"] = tier
    if response.state in _CUT_SHORT:
        fields["outcome"] = "cancelled"


def tool_end(attributes: Attributes, *, content: bool) -> dict[str, Any]:
    """What a tool call's end says."""
    result = attributes.get("gen_ai.tool.call.result", attributes.get("tool_response"))
    return {"result": structured(result) if content else None} | _extra(attributes)


def _extra(attributes: Attributes) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key.startswith(_EXTRA)}


def cause_of(error: BaseException) -> BaseException:
    """The exception of the program's that pydantic-ai's own stands for: a tool's `ModelRetry`, say."""
    if isinstance(error, (ToolRetryError, ToolFailedError)) and error.__cause__ is not None:
        return error.__cause__
    return error


def _converter() -> InstrumentationSettings:
    quiet = {"tracer_provider": NoOpTracerProvider(), "meter_provider": NoOpMeterProvider()}
    try:  # format 6 gives tool results the role "tool", as the conventions pair them; older versions lack it
        return InstrumentationSettings(version=6, include_binary_content=False, **quiet)  # type: ignore[arg-type]
    except ValueError:
        return InstrumentationSettings(include_binary_content=False, **quiet)  # type: ignore[arg-type]


_convert = _converter().messages_to_otel_messages


class Conversation:
    """The messages of one run in the conventions' parts schema, each converted once however often it is sent again.

    A model call's input is the whole conversation so far, so converting it anew each time would cost its square. What
    is converted refers to the texts, it does not copy them; binary content is left out.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[ModelMessage, Sequence[Any], list[Any]]] = {}

    def render(self, messages: Sequence[ModelMessage]) -> list[Any]:
        """These messages, the instructions of the last request first."""
        fresh: dict[int, tuple[ModelMessage, Sequence[Any], list[Any]]] = {}
        rendered: list[Any] = []
        for message in messages:
            entry = self._known.get(id(message))
            if entry is None or entry[1] is not message.parts:  # pydantic-ai changes messages by giving them new parts
                entry = (message, message.parts, list(_convert([message])))
            fresh[id(message)] = entry
            rendered.extend(entry[2])
        self._known = fresh
        last = messages[-1] if messages else None
        if isinstance(last, ModelRequest) and last.instructions:
            rendered.insert(0, {"role": "system", "parts": [{"type": "text", "content": last.instructions}]})
        return rendered


def requests_in_flight() -> Sequence[tuple[ModelRequestContext, Any]]:
    """The model requests that are being prepared here, innermost last.

    Spans tell a request's messages only with its answer, too late for the event of the request itself. pydantic-ai
    keeps them in a variable of its own until then; where a version has none, the event goes without them.
    """
    module, name = _IN_FLIGHT
    variable = getattr(sys.modules.get(module), name, None)
    found = variable.get(()) if isinstance(variable, ContextVar) else ()
    return found if isinstance(found, tuple) else ()
