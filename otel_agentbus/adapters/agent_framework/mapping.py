"""What agent-framework says of its runs, in the words of our events: its agents, clients, messages and usage."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent_framework import Message

from ... import observe
from ...observe import AgentBlock, LlmBlock, ToolBlock
from ..plain import structured

#: Requests' settings by our names; the framework's options have these, and their providers' own beside them.
_PARAMETERS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_tokens",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "stop": "stop_sequences",
}
#: Where a count is said, the framework's own names before those of its clients of older versions.
_COUNTS: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("input_token_count",),
    "output_tokens": ("output_token_count",),
    "cache_read_input_tokens": (
        "cache_read_input_token_count",
        "openai.cached_input_tokens",
        "prompt/cached_tokens",
        "anthropic.cache_read_input_tokens",
    ),
    "cache_write_input_tokens": (
        "cache_creation_input_token_count",
        "openai.cache_write_tokens",
        "prompt/cache_write_tokens",
        "anthropic.cache_creation_input_tokens",
    ),
    "reasoning_output_tokens": (
        "reasoning_output_token_count",
        "openai.reasoning_tokens",
        "completion/reasoning_tokens",
    ),
}
_NOBODY = frozenset({"unknown", "microsoft.agent_framework", "microsoft.agent_framework.harness"})


# -- what begins -------------------------------------------------------------------------------------------------------


def agent_block(agent: Any, messages: Any, options: Mapping[str, Any] | None, session: Any) -> AgentBlock:
    """The run of an agent that begins with these messages."""
    given = {**(getattr(agent, "default_options", None) or {}), **(options or {})}
    client = getattr(agent, "client", None)
    return observe.agent(
        getattr(agent, "name", None) or "agent",
        provider=provider_of(client if client is not None else agent),
        model=_text(given.get("model")) or _text(getattr(client, "model", None)),
        conversation_id=_conversation_of(given, session),
        instructions=given.get("instructions"),
        input=rendered(_messages(messages)),
    )


def workflow_block(workflow: Any) -> AgentBlock:
    """The run of a workflow: the agents of its executors are its sub-agents."""
    return observe.agent(getattr(workflow, "name", None) or "workflow", **{"agent_framework.kind": "workflow"})


def llm_block(client: Any, messages: list[Any], count: int, options: Mapping[str, Any], *, stream: bool) -> LlmBlock:
    """The request that is about to be sent."""
    instructions = options.get("instructions")
    if isinstance(instructions, str) and instructions:
        messages = [{"role": "system", "parts": [{"type": "text", "content": instructions}]}, *messages]
    return observe.llm(
        _text(options.get("model")) or _text(getattr(client, "model", None)),
        provider=provider_of(client),
        stream=stream or None,
        messages=messages,
        messages_count=count,
        parameters=_parameters(options) or None,
    )


def tool_block(tool: Any, tool_call_id: str | None, arguments: Any) -> ToolBlock:
    """The call of a function that is about to be made."""
    dump = getattr(arguments, "model_dump", None)
    return observe.tool(
        tool.name, tool_call_id=tool_call_id, arguments=without_binary(dump() if callable(dump) else arguments)
    )


def provider_of(client: Any) -> str | None:
    """Who is asked, as the client calls it for OpenTelemetry."""
    for name in ("otel_provider_name", "OTEL_PROVIDER_NAME"):
        said = getattr(client, name, None)
        if isinstance(said, str) and said and said not in _NOBODY:
            return said
    return None


def _parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {ours: options[theirs] for theirs, ours in _PARAMETERS.items() if options.get(theirs) is not None}
    stop = found.get("stop_sequences")
    if stop is not None:
        found["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    return found


def _conversation_of(options: Mapping[str, Any], session: Any) -> str | None:
    """The service's conversation, or the application's session: not the number that a session gives itself."""
    said = _text(options.get("conversation_id")) or _text(getattr(session, "service_session_id", None))
    if said is None and (name := _text(getattr(session, "session_id", None))) is not None and not _is_made_up(name):
        said = name
    return said


def _is_made_up(name: str) -> bool:
    try:
        uuid.UUID(name)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


# -- what ends ---------------------------------------------------------------------------------------------------------


def agent_end(response: Any) -> dict[str, Any]:
    """What the end of a run says. Its totals leave out the sub-agents', and would only seem wrong."""
    return {"output": rendered(getattr(response, "messages", None) or ())}


def agent_end_of(updates: Sequence[Any]) -> dict[str, Any]:
    """What the end of a streamed run says."""
    return {"output": _joined(updates) or None}


def llm_end(response: Any, provider: str | None) -> dict[str, Any]:
    """What the answer to one request says."""
    said = _answer(response, provider, getattr(response, "usage_details", None))
    said["messages"] = rendered(getattr(response, "messages", None) or ())
    return said


def llm_end_of(updates: Sequence[Any], provider: str | None) -> dict[str, Any]:
    """What a streamed answer says. Counts that are told again are told anew: they are not summed up."""
    used: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for update in updates:
        said.update({name: value for name, value in _answer(update, provider, None).items() if value is not None})
        for content in getattr(update, "contents", None) or ():
            if content.type == "usage" and content.usage_details:
                used.update({key: value for key, value in content.usage_details.items() if value is not None})
    return {**said, **usage(used, provider), "messages": _joined(updates) or None}


def _answer(response: Any, provider: str | None, used: Mapping[str, Any] | None) -> dict[str, Any]:
    reason = getattr(response, "finish_reason", None)
    return {
        "response_id": _text(getattr(response, "response_id", None)),
        "response_model": _text(getattr(response, "model", None)),
        "finish_reasons": [str(reason)] if reason else None,
        **usage(used or {}, provider),
    }


def usage(used: Mapping[str, Any], provider: str | None) -> dict[str, int]:
    """The framework's counts under our names, with the cached tokens in the input's total.

    Anthropic counts them apart, and so may others: then the sum of all, where it is told, has them.
    """
    said = {}
    for ours, names in _COUNTS.items():
        counted = next((used[name] for name in names if _is_count(used.get(name))), None)
        if counted is not None:
            said[ours] = counted
    cached = said.get("cache_read_input_tokens", 0) + said.get("cache_write_input_tokens", 0)
    asked, answered = said.get("input_tokens", 0), said.get("output_tokens", 0)
    apart = provider == "anthropic" or used.get("total_token_count") == asked + answered + cached
    if cached and (apart or cached > asked):
        said["input_tokens"] = asked + cached
    return said


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def tool_end(result: Any) -> dict[str, Any]:
    """What the end of a function's call says."""
    return {"result": _response(result)}


# -- messages ----------------------------------------------------------------------------------------------------------


class Conversation:
    """One run's messages in the conventions' parts schema, each converted once however often it is sent again."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, int, dict[str, Any]]] = {}

    def render(self, messages: Sequence[Any]) -> list[Any]:
        """These messages, converted; one that has got more contents since is converted again."""
        fresh: dict[int, tuple[Any, int, dict[str, Any]]] = {}
        for message in messages:
            entry = self._known.get(id(message))
            if entry is None or entry[1] != len(message.contents):
                entry = (message, len(message.contents), _rendered(message.role, message.contents))
            fresh[id(message)] = entry
        self._known = fresh
        return [fresh[id(message)][2] for message in messages]


def rendered(messages: Iterable[Any]) -> list[Any]:
    """These messages in the conventions' parts schema; binary content is left out."""
    return [_rendered(message.role, message.contents) for message in messages]


def _messages(given: Any) -> list[Any]:
    """What a run is given, which may be a text, a message or a list of these, as messages."""
    if given is None:
        return []
    found = []
    for one in [given] if isinstance(given, str) or not isinstance(given, Sequence) else given:
        if isinstance(one, Message):
            found.append(one)
        elif isinstance(one, str) or hasattr(one, "type"):
            found.append(Message("user", [one]))
    return found


def _joined(updates: Sequence[Any]) -> list[Any]:
    """The messages that these updates make: texts that follow one another are one."""
    messages: list[dict[str, Any]] = []
    for update in updates:
        role = str(getattr(update, "role", None) or (messages[-1]["role"] if messages else "assistant"))
        if not messages or messages[-1]["role"] != role:
            messages.append({"role": role, "parts": []})
        parts = messages[-1]["parts"]
        for part in _parts(getattr(update, "contents", None) or ()):
            _append(parts, part)
    return [message for message in messages if message["parts"]]


def _append(parts: list[dict[str, Any]], part: dict[str, Any]) -> None:
    last = parts[-1] if parts else {}
    kind = part["type"]
    if kind in ("text", "reasoning") and last.get("type") == kind:
        last["content"] = f"{last['content']}{part['content']}"
    elif kind == "tool_call" and last.get("type") == kind and last["id"] == part["id"]:
        if isinstance(last["arguments"], str) and isinstance(part["arguments"], str):
            last["arguments"] += part["arguments"]  # they come in pieces
    else:
        parts.append(part)


def _rendered(role: Any, contents: Iterable[Any]) -> dict[str, Any]:
    return {"role": str(role), "parts": list(_parts(contents))}


def _parts(contents: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for content in contents:
        part = _part(content)
        if part is not None:
            yield part


def _part(content: Any) -> dict[str, Any] | None:
    match getattr(content, "type", None):
        case "text":
            return {"type": "text", "content": content.text}
        case "text_reasoning":
            return {"type": "reasoning", "content": content.text} if content.text else None
        case "function_call":
            arguments = structured(content.arguments)
            return {"type": "tool_call", "id": content.call_id, "name": content.name, "arguments": arguments}
        case "function_result":
            return {"type": "tool_call_response", "id": content.call_id, "response": _response(content.result)}
        case _:
            return None


def _response(result: Any) -> Any:
    """A function's result: its text, or the list of its texts; what is no text is left out."""
    if isinstance(result, (list, tuple)) and result and all(hasattr(item, "type") for item in result):
        found = [item.text for item in result if item.type == "text"]
        return found[0] if len(found) == 1 else found
    return without_binary(structured(result))


def without_binary(value: Any) -> Any:
    """The value with the size of bytes in their place."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {key: without_binary(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_binary(item) for item in value]
    return value
