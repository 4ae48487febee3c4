"""LlamaIndex's objects in the words of our events: messages in the parts schema, a request's parameters, results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ...invocation import text

#: What a request may be told to do, as the caller or the model object names it, and as the conventions do.
_PARAMETERS: Final = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "stop": "stop_sequences",
    "stop_sequences": "stop_sequences",
}
#: How deep a value may be nested before the rest of it is told as text.
_LEVELS: Final = 8
#: The tags (`instrument_tags`) by which an application says which conversation this is.
_CONVERSATION: Final = ("gen_ai.conversation.id", "conversation_id", "session.id", "session_id")


def parameters_of(instance: Any, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the model is asked: by this call or, where that says nothing, always."""
    found: dict[str, Any] = {}
    for name, told in _PARAMETERS.items():
        value = given.get(name)
        if value is None:
            value = getattr(instance, name, None)
        if _is_plain(value):
            found.setdefault(told, value)
    return found or None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(entry, str) for entry in value)
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def conversation_of(tags: Mapping[str, Any] | None) -> str | None:
    """The conversation that the application has tagged its run with, if it has."""
    for name in _CONVERSATION if tags else ():
        value = (tags or {}).get(name)
        if isinstance(value, (str, int)) and value != "":
            return str(value)
    return None


def asked(arguments: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """What a model is asked: messages, or the prompt of a completion.

    Each message is told anew with each call, as a few small objects that refer to its texts; nothing is copied.
    """
    messages = arguments.get("messages")
    if messages is not None:
        return [said(message) for message in messages]
    prompt = arguments.get("prompt")
    return None if prompt is None else [{"role": "user", "parts": [{"type": "text", "content": text(prompt)}]}]


def said(message: Any) -> dict[str, Any]:
    """One message in the parts schema."""
    role = _word(message.role)
    extra = message.additional_kwargs
    call = extra.get("tool_call_id")
    if role in ("tool", "function"):
        answer = {"type": "tool_call_response", "id": call, "response": message.content}
        return {"role": "tool", "parts": [answer]}
    parts = [part for block in message.blocks if (part := _part(block)) is not None]
    if not any(part["type"] == "tool_call" for part in parts):
        parts.extend(_older_calls(extra.get("tool_calls")))
    return {"role": "system" if role == "developer" else "user" if role == "human" else role, "parts": parts}


def _part(block: Any) -> dict[str, Any] | None:
    kind = _word(getattr(block, "block_type", ""))
    if kind == "text" and block.text:
        return {"type": "text", "content": block.text}
    if kind == "tool_call":
        return {
            "type": "tool_call",
            "id": block.tool_call_id,
            "name": block.tool_name,
            "arguments": plain(block.tool_kwargs),
        }
    if kind == "thinking" and block.content:
        return {"type": "reasoning", "content": block.content}
    if kind in ("image", "audio", "video", "document"):
        url = getattr(block, "url", None)
        link = "" if url is None else str(url)
        where = {"type": "uri", "uri": link} if link.startswith(("http:", "https:")) else {"type": "file"}
        return {**where, "modality": kind}
    return None


def _older_calls(calls: Any) -> Iterable[dict[str, Any]]:
    """Tool calls where integrations kept them before messages had blocks for them: as the provider's own objects."""
    for call in calls if isinstance(calls, (list, tuple)) else ():
        function = attribute(call, "function") or call
        name = attribute(function, "name") or attribute(call, "tool_name")
        if name is None:
            continue
        arguments = attribute(function, "arguments")
        if arguments is None:
            arguments = attribute(call, "tool_kwargs") or attribute(function, "input")
        yield {
            "type": "tool_call",
            "id": attribute(call, "id") or attribute(call, "tool_id"),
            "name": name,
            "arguments": plain(arguments),
        }


def attribute(holder: Any, name: str) -> Any:
    """What an object or a mapping has under this name, or None."""
    if isinstance(holder, Mapping):
        return holder.get(name)
    return getattr(holder, name, None)


def plain(value: Any, levels: int = _LEVELS) -> Any:
    """A value as JSON: as it is where it is that, else as a model's fields, else as text."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping) and levels:
        return {text(key): plain(entry, levels - 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)) and levels:
        return [plain(entry, levels - 1) for entry in value]
    try:
        dump = getattr(value, "model_dump", None)
        return plain(dump(), levels - 1) if callable(dump) and levels else text(value)
    except Exception:  # noqa: BLE001 - a serialiser of the program's own
        return text(value)


def outcome(result: Any) -> Any:
    """What a run or an engine has answered: an agent's structured answer or its text, an engine's text, a value."""
    answer = getattr(result, "response", None)
    if answer is not None and hasattr(answer, "blocks"):
        structured = getattr(result, "structured_response", None)
        return plain(structured) if structured is not None else answer.content
    return answer if isinstance(answer, str) else plain(result)


def question(given: Any) -> Any:
    """What an agent or an engine is asked, as text."""
    if given is None or isinstance(given, str):
        return given
    query = getattr(given, "query_str", None)  # a query with its embeddings
    return query if isinstance(query, str) else getattr(given, "content", None)


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))


__all__ = ["asked", "attribute", "conversation_of", "outcome", "parameters_of", "plain", "question", "said"]
