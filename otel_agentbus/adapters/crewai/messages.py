"""CrewAI's messages in the GenAI conventions' parts schema.

With each model call CrewAI tells a fresh copy of the whole conversation, so there is nothing to recognise from the call
before; what is converted here refers to the texts of that copy.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..plain import structured
from .scopes import Asked

#: Parts of a message's content that have a text, by the names that providers give them.
_TEXTS = frozenset({"text", "input_text", "output_text"})
_BINARY = "[not shown: binary]"


def conversation(messages: Any) -> list[Any]:
    """A model call's input."""
    if isinstance(messages, str):
        return [_message("user", [_text(messages)])]
    if not isinstance(messages, Sequence):
        return []
    return [_converted(message) for message in messages if isinstance(message, Mapping)]


def answer(response: Any, finish_reason: str | None) -> list[Any]:
    """A model call's output: a text, or the tool calls that it asks for."""
    calls = tool_calls(response)
    if calls:
        parts = [_call(*call) for call in calls]
    else:
        parts = [_text(response if isinstance(response, str) else _written(response))]
    message = _message("assistant", parts)
    if finish_reason:
        message["finish_reason"] = finish_reason
    return [message]


def tool_calls(response: Any) -> Asked:
    """The tool calls in an answer: their ids, names and arguments, in whichever provider's form they are."""
    if not isinstance(response, list):
        return []
    found = [_asked(item) for item in response if isinstance(item, Mapping)]
    return [call for call in found if call is not None]


def _asked(item: Mapping[str, Any]) -> tuple[str, str, Any] | None:
    function = item.get("function") or item.get("function_call")
    said = function if isinstance(function, Mapping) else item
    name = said.get("name")
    if not isinstance(name, str) or not name:
        return None
    arguments = next((said[key] for key in ("arguments", "args", "input") if said.get(key) is not None), None)
    id = item.get("call_id") or item.get("id") or item.get("toolUseId")
    return (str(id) if id else "", _unquoted(name), _unquoted(arguments))


def _converted(message: Mapping[str, Any]) -> dict[str, Any]:
    role = str(message.get("role") or "user")
    if role == "tool":
        response = message.get("content")
        return _message(
            "tool", [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": response}]
        )
    parts = list(_content(message.get("content")))
    for call in message.get("tool_calls") or ():
        asked = _asked(call) if isinstance(call, Mapping) else None
        if asked is not None:
            parts.append(_call(*asked))
    return _message(role, parts)


def _content(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, str):
        yield _text(content)
    elif isinstance(content, Sequence):
        for part in content:
            yield from _part(part)


def _part(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, str):
        yield _text(part)
    elif isinstance(part, Mapping):
        kind = part.get("type")
        if kind in _TEXTS:
            yield _text(str(part.get("text", "")))
        elif kind == "tool_use":
            yield _call(part.get("id"), part.get("name"), part.get("input"))
        elif kind == "tool_result":
            yield {"type": "tool_call_response", "id": part.get("tool_use_id"), "response": part.get("content")}
        elif kind == "thinking":
            yield {"type": "reasoning", "content": str(part.get("thinking", ""))}
        else:
            yield {"type": str(kind or "unknown"), "content": _BINARY}


def _call(id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": id or None, "name": name, "arguments": structured(arguments)}


def _text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def _message(role: str, parts: list[Any]) -> dict[str, Any]:
    return {"role": role, "parts": parts}


def _unquoted(value: Any) -> Any:
    """A text as it was: CrewAI tells what lies deep in a message (the names of its tool calls) as Python's `repr`."""
    if isinstance(value, str) and value[:1] in ("'", '"') and value[-1:] == value[:1]:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    return value


def _written(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
