"""What Strands says of its runs, in the words of our events: its hook events, its models' settings, its messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from strands.types.exceptions import EventLoopException

from ... import observe
from ...invocation import text
from ...observe import AgentBlock, LlmBlock, ToolBlock
from ..losses import Shielded

if TYPE_CHECKING:
    from strands import Agent

#: Providers by the module of `strands.models` that speaks with them, under their OpenTelemetry names.
_PROVIDERS: Mapping[str, str] = {
    "anthropic": "anthropic",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "llamaapi": "meta",
    "llamacpp": "llama_cpp",
    "mistral": "mistral_ai",
    "ollama": "ollama",
    "openai": "openai",
    "openai_responses": "openai",
    "sagemaker": "aws.sagemaker",
    "writer": "writer",
}
#: The same by the prefix of LiteLLM's model ids; a prefix that is not here is the name itself.
_ROUTED: Mapping[str, str] = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "xai": "x_ai",
}
_PARAMETERS = ("temperature", "max_tokens", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
_MODELS = "strands.models."
#: What an application calls its conversation in `Agent(trace_attributes=...)`.
_SESSION = ("session.id", "gen_ai.conversation.id")
#: How deep a value may be nested before the rest of it is told as text.
_LEVELS = 16

_UNTOLD = Shielded("what Strands Agents was told or said could not be told")


def agent_block(agent: Agent, messages: Any) -> AgentBlock:
    """The run of an agent that begins with these messages."""
    settings = settings_of(agent.model)
    return observe.agent(
        agent.name or "agent",
        provider=provider_of(agent.model, settings),
        model=model_of(settings),
        conversation_id=_conversation_of(agent),
        instructions=agent.system_prompt,
        input=rendered(messages) if messages else None,
    )


def orchestrator_block(source: Any) -> AgentBlock:
    """The run of a graph or swarm: the agents of its nodes are its sub-agents."""
    kind = type(source).__name__.lower()
    session = getattr(getattr(source, "session_manager", None), "session_id", None)
    given: dict[str, Any] = {"strands.orchestrator": kind}
    return observe.agent(getattr(source, "id", None) or kind, conversation_id=session, **given)


def llm_block(model: Any, system: Any, messages: list[Any] | None, count: int) -> LlmBlock:
    """The call of a model that is about to be made, with so many messages; None where they could not be told."""
    settings = settings_of(model)
    if messages is not None and isinstance(system, str):
        messages = [{"role": "system", "parts": [{"type": "text", "content": system}]}, *messages]
    return observe.llm(
        model_of(settings),
        provider=provider_of(model, settings),
        stream=settings.get("streaming") is not False or None,
        messages=messages,
        messages_count=count,
        parameters=_parameters(settings) or None,
    )


def tool_block(tool_use: Mapping[str, Any], tool_call_id: str | None) -> ToolBlock:
    """The call of a tool that is about to be made."""
    return observe.tool(
        tool_use.get("name") or "tool", tool_call_id=tool_call_id, arguments=plain(tool_use.get("input"))
    )


def agent_end(result: Any) -> dict[str, Any]:
    """What the end of an agent's run says. Strands' totals leave out the sub-agents', and would only seem wrong."""
    if result is None:
        return {}
    said = {"strands.stop_reason": result.stop_reason, "output": rendered([result.message])}
    if result.stop_reason == "cancelled":
        said["outcome"] = "cancelled"
    return said


def llm_end(stop: Sequence[Any]) -> dict[str, Any]:
    """What the answer to one model call says: usage is this call's own."""
    stop_reason, message, used = stop[:3]
    said = usage(used) if any(used.values()) else {}  # all zero where the model has not told it
    said["finish_reasons"] = [stop_reason]
    said["messages"] = rendered([message])
    if stop_reason == "cancelled":
        said["outcome"] = "cancelled"
    return said


def usage(used: Mapping[str, int]) -> dict[str, Any]:
    """Strands' counts under our names, with the cached tokens in the input's total.

    Some of its models give that total, others (Anthropic, Bedrock) what was not cached. Which, the sum of all tells, by
    the rule that Strands itself goes by: where it is input and output alone, cached tokens are in the input.
    """
    asked, answered, total = used.get("inputTokens", 0), used.get("outputTokens", 0), used.get("totalTokens", 0)
    read, written = used.get("cacheReadInputTokens"), used.get("cacheWriteInputTokens")
    cached = (read or 0) + (written or 0)
    if cached and (asked + answered != total or cached > asked):
        asked += cached
    said: dict[str, Any] = {"input_tokens": asked, "output_tokens": answered}
    if read is not None:
        said["cache_read_input_tokens"] = read
    if written is not None:
        said["cache_write_input_tokens"] = written
    return said


def tool_end(event: Any) -> tuple[BaseException | None, dict[str, Any]]:
    """What a tool call's end says: the exception, if there was one, and the fields."""
    result = event.result
    if not isinstance(result, Mapping):
        return event.exception, {}
    said = {"result": _response(result.get("content"))}
    if result.get("cancelled") is True:
        return None, {**said, "outcome": "cancelled"}
    if event.exception is None and result.get("status") == "error":
        said |= {"outcome": "error", "error_type": "tool_error", "error_message": _text(result.get("content"))}
    return event.exception, said


def cause_of(error: BaseException) -> BaseException:
    """The exception of the program's that the event loop's own stands for."""
    if isinstance(error, EventLoopException):
        original = getattr(error, "original_exception", None)
        return original if isinstance(original, BaseException) else error
    return error


# -- models ------------------------------------------------------------------------------------------------------------


def settings_of(model: Any) -> Mapping[str, Any]:
    """A model's configuration, where it has one that can be read."""
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping):
        read = getattr(model, "get_config", None)
        config = read() if callable(read) else None
    return config if isinstance(config, Mapping) else {}


def model_of(settings: Mapping[str, Any]) -> str | None:
    """The name of the model."""
    name = settings.get("model_id") or settings.get("endpoint_name")
    return name if isinstance(name, str) else None


def provider_of(model: Any, settings: Mapping[str, Any]) -> str | None:
    """Who is asked, told by the class of Strands' own that the model is or derives from; None for any other."""
    for cls in type(model).__mro__:
        if cls.__module__.startswith(_MODELS):
            name = cls.__module__.removeprefix(_MODELS).partition(".")[0]
            if name == "litellm":
                prefix, slash, _ = str(settings.get("model_id")).partition("/")
                return _ROUTED.get(prefix, prefix) if slash else "openai"
            return _PROVIDERS.get(name)
    return None


def _parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    given = settings.get("params")
    asked = {**settings, **given} if isinstance(given, Mapping) else settings
    found = {key: asked[key] for key in _PARAMETERS if asked.get(key) is not None}
    if stop := asked.get("stop_sequences"):
        found["stop_sequences"] = list(stop)
    return found


def _conversation_of(agent: Agent) -> str | None:
    session = getattr(getattr(agent, "_session_manager", None), "session_id", None)
    if session is None:
        given = agent.trace_attributes or {}
        session = next((given[key] for key in _SESSION if given.get(key)), None)
    return session if isinstance(session, str) else None


# -- messages ----------------------------------------------------------------------------------------------------------


class Conversation:
    """One run's messages in the conventions' parts schema, each converted once however often it is sent again.

    Strands sends copies, so a message is known again by its place and by being equal, which is found fast: the texts in
    a copy are the same objects.
    """

    def __init__(self) -> None:
        self._known: list[tuple[Any, dict[str, Any]]] = []

    def render(self, messages: Sequence[Mapping[str, Any]]) -> list[Any] | None:
        """These messages, converted; None where one of them cannot be."""
        known, fresh = self._known, []
        with _UNTOLD:
            for place, message in enumerate(messages):
                content = message.get("content")
                if place < len(known) and known[place][0] == content:
                    fresh.append(known[place])
                else:
                    fresh.append((list(content or ()), _rendered(message)))
            self._known = fresh
            return [converted for _, converted in fresh]
        return None


def rendered(messages: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """These messages in the conventions' parts schema, without binary content; None where one of them cannot be."""
    with _UNTOLD:
        return [_rendered(message) for message in messages]
    return None


def _rendered(message: Mapping[str, Any]) -> dict[str, Any]:
    parts = [part for block in message.get("content") or () if (part := _part(block)) is not None]
    role = message.get("role")
    if role == "user" and parts and all(part["type"] == "tool_call_response" for part in parts):
        role = "tool"
    return {"role": role, "parts": parts}


def _part(block: Mapping[str, Any]) -> dict[str, Any] | None:
    if "text" in block:
        return {"type": "text", "content": block["text"]}
    if "toolUse" in block:
        call = block["toolUse"]
        arguments = plain(call.get("input"))
        return {"type": "tool_call", "id": call.get("toolUseId"), "name": call.get("name"), "arguments": arguments}
    if "toolResult" in block:
        result = block["toolResult"]
        response = _response(result.get("content"))
        return {"type": "tool_call_response", "id": result.get("toolUseId"), "response": response}
    if "reasoningContent" in block:
        text = (block["reasoningContent"].get("reasoningText") or {}).get("text")
        return {"type": "reasoning", "content": text} if text else None
    if "citationsContent" in block:
        return {"type": "text", "content": _text(block["citationsContent"].get("content"))}
    return None


def _response(content: Any) -> Any:
    """A tool's result: its text or its JSON, or the list of them; binary content is left out."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return plain(content)
    found = [
        block["text"] if "text" in block else plain(block["json"])
        for block in content
        if isinstance(block, Mapping) and ("text" in block or "json" in block)
    ]
    return found[0] if len(found) == 1 else found


def _text(content: Any) -> str:
    blocks = content if isinstance(content, Sequence) else ()
    return "\n".join(str(block["text"]) for block in blocks if isinstance(block, Mapping) and "text" in block)


def plain(value: Any, levels: int = _LEVELS) -> Any:
    """A value as JSON says it, or else as text: a tool that the program calls itself is given anything."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping) and levels:
        return {text(key): plain(item, levels - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and levels:
        return [plain(item, levels - 1) for item in value]
    return text(value)
