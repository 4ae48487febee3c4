"""What CrewAI's events say, in the words of our events."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ... import observe
from ...observe import AgentBlock, LlmBlock, ToolBlock
from ..plain import plain
from . import messages

#: CrewAI's names of providers, where OpenTelemetry has others.
_PROVIDERS: Mapping[str, str] = {
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "aws": "aws.bedrock",
    "claude": "anthropic",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
#: A request's parameters, by the names of the conventions (`gen_ai.request.*`).
_PARAMETERS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens",
    "seed": "seed",
    "stop_sequences": "stop_sequences",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
#: The first of these that a usage has is the count; each provider has names of its own.
_INPUT = ("prompt_tokens", "prompt_token_count", "input_tokens", "inputTokens")
_OUTPUT = ("completion_tokens", "output_tokens", "outputTokens", "candidates_token_count")
_CACHE_READ = ("cached_prompt_tokens", "cached_tokens", "cache_read_input_tokens", "cacheReadInputTokens",
               "cacheReadInputTokenCount")  # fmt: skip
_CACHE_WRITE = ("cache_creation_tokens", "cache_creation_input_tokens", "cacheWriteInputTokens",
                "cacheWriteInputTokenCount")  # fmt: skip
#: A provider's own shape, in which input leaves out what the cache has read and written.
_EXCLUSIVE = {
    "input_tokens": ("cache_read_input_tokens", "cache_creation_input_tokens"),
    "inputTokens": ("cacheReadInputTokens", "cacheWriteInputTokens"),
}


def crew_block(source: Any, event: Any) -> AgentBlock:
    """A crew's run."""
    name = _name(event.crew_name, "crew")
    return observe.agent(name, input=plain(event.inputs) or None, **_who(source, "crew"))


def flow_block(source: Any, event: Any) -> AgentBlock:
    """A flow's run."""
    return observe.agent(_name(event.flow_name, "flow"), input=plain(event.inputs) or None, **_who(source, "flow"))


def agent_block(source: Any, event: Any) -> AgentBlock:
    """An agent at a task, or kicked off by itself: then its event has messages instead of a task."""
    agent = getattr(event, "agent", None) or source
    model, provider = model_of(getattr(agent, "llm", None))
    task = getattr(event, "task", None)
    told = [text for text in (getattr(agent, "goal", None), getattr(agent, "backstory", None)) if text]
    asked = getattr(event, "task_prompt", None)
    return observe.agent(
        _name(getattr(agent, "role", None), "agent"),
        model=model,
        provider=provider,
        instructions="\n\n".join(told) or None,
        input=messages.conversation(event.messages if asked is None else asked),
        **_who(agent, "agent"),
        **({} if task is None else {"crewai.task.id": str(task.id)}),
    )


def llm_block(source: Any, event: Any) -> LlmBlock:
    """A model call that is about to be sent."""
    model, provider = model_of(source)
    parameters = {
        name: value for key, name in _PARAMETERS.items() if (value := getattr(event, key, None)) not in (None, [])
    }
    choices = getattr(event, "n", None)
    if choices not in (None, 1):
        parameters["choice.count"] = choices
    return observe.llm(
        model or event.model,
        provider=provider,
        call_id=event.call_id,
        stream=True if getattr(event, "stream", None) else None,
        messages=messages.conversation(event.messages),
        parameters=parameters or None,
    )


def tool_block(event: Any, tool_call_id: str | None) -> ToolBlock:
    """A tool call that is about to run."""
    return observe.tool(event.tool_name, tool_call_id=tool_call_id, arguments=plain(event.tool_args))


def llm_end(event: Any) -> dict[str, Any]:
    """What a model's answer says; older versions tell less of it."""
    reason = getattr(event, "finish_reason", None)
    return {
        **tokens(getattr(event, "usage", None)),
        "finish_reasons": [reason] if reason else None,
        "response_id": getattr(event, "response_id", None),
        "messages": messages.answer(event.response, reason),
    }


def tool_end(event: Any) -> dict[str, Any]:
    """What a tool's end says: its result, or the failure that it has reported without raising."""
    said: dict[str, Any] = {"result": plain(event.output)}
    failure = getattr(event, "failure", None)
    if failure is not None:
        reason = getattr(failure.reason, "value", failure.reason)
        said |= {"outcome": "error", "error_type": str(reason), "error_message": str(failure.message)}
    return said


def crew_end(event: Any) -> dict[str, Any]:
    """What a crew's result says. Its totals are those of its models' whole lives, and left out."""
    return {"output": getattr(event.output, "raw", None)}


def flow_end(event: Any) -> dict[str, Any]:
    """What a flow's result says."""
    result = event.result
    raw = getattr(result, "raw", None)  # a crew's
    return {"output": raw if isinstance(raw, str) else plain(result)}


def tokens(usage: Any) -> dict[str, int | None]:
    """A model call's usage in our fields, input with what the cache has read and written; empty where none was told."""
    if not isinstance(usage, Mapping):
        return {}
    input, output = _first(usage, _INPUT), _first(usage, _OUTPUT)
    if input is None and output is None:
        return {}
    shape = next((key for key in _INPUT if isinstance(usage.get(key), int)), "")
    for cached in _EXCLUSIVE.get(shape, ()):
        input = (input or 0) + (_first(usage, (cached,)) or 0)
    read = _first(usage, _CACHE_READ)
    if read is None:
        read = _detail(usage, "prompt_tokens_details", "cached_tokens")
    reasoning = _first(usage, ("reasoning_tokens",))
    if reasoning is None:
        reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    return {
        "input_tokens": input,
        "output_tokens": output,
        "cache_read_input_tokens": read or None,
        "cache_write_input_tokens": _first(usage, _CACHE_WRITE) or None,
        "reasoning_output_tokens": reasoning or None,
    }


def failure(event: Any) -> tuple[BaseException | None, dict[str, Any]]:
    """The exception that an event tells of, or what is known of it: the event mostly has its text only.

    Such an event is emitted where the exception is being handled, so it is at hand, unless an earlier one is.
    """
    told = getattr(event, "error", None)
    if isinstance(told, BaseException):
        return told, {}
    text = "" if told is None else str(told)
    handled = sys.exc_info()[1]
    if handled is not None and str(handled) in text:
        return handled, {}
    return None, {"outcome": "error", "error_message": text or None}


def model_of(llm: Any) -> tuple[str | None, str | None]:
    """A model's name and its provider's, of a CrewAI model object or of a name like "groq/llama-3"."""
    model = llm if isinstance(llm, str) else getattr(llm, "model", None)
    provider = None if isinstance(llm, str) else getattr(llm, "provider", None)
    if not isinstance(model, str):
        return None, None
    prefix, slash, rest = model.partition("/")
    if slash and (provider in (None, "", prefix) or getattr(llm, "is_litellm", False) is True):
        model, provider = rest, prefix
    if not isinstance(provider, str) or not provider:
        return model, None
    return model, _PROVIDERS.get(provider, provider)


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    given = (usage.get(name) for name in names)
    return next((n for n in given if isinstance(n, int) and not isinstance(n, bool) and n >= 0), None)


def _detail(usage: Mapping[str, Any], part: str, name: str) -> int | None:
    details = usage.get(part)
    return _first(details, (name,)) if isinstance(details, Mapping) else None


def _name(said: Any, otherwise: str) -> str:
    """A name as it is meant: roles from YAML files end with a line break."""
    return (said.strip() if isinstance(said, str) else "") or otherwise


def _who(source: Any, kind: str) -> dict[str, Any]:
    id = getattr(source, "flow_id", None) if kind == "flow" else getattr(source, "id", None)
    return {"crewai.kind": kind} if id is None else {"crewai.kind": kind, f"crewai.{kind}.id": str(id)}
