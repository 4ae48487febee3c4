"""The Agents SDK's items (those of the Responses API, which it speaks to every model) in the conventions' parts schema.

Items come as the program gave them (dicts) or as the model's answer has them (objects). What is made of them refers to
their texts and does not copy them. Files, pictures and sound are named, never included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from agents import ToolOutputFileContent, ToolOutputImage

from ..plain import plain as as_json
from ..plain import structured

Part = dict[str, Any]

_TEXTS = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text"))
_FILES = {"input_image": "image", "input_file": "file", "input_audio": "audio", "input_video": "video"}
_CALL = "_call"
_OUTPUT = "_call_output"
#: How deep lists may be nested before the rest is only named.
_LEVELS = 16


def conversation(instructions: Any, items: Any) -> list[Any]:
    """What a model is asked: its instructions first, then every item."""
    messages: list[Any] = []
    if isinstance(instructions, str) and instructions:
        messages.append({"role": "system", "parts": [_text(instructions)]})
    if isinstance(items, str):
        messages.append({"role": "user", "parts": [_text(items)]})
    elif items:
        messages.extend(_grouped(items))
    return messages


def answer(items: Iterable[Any] | None, finish_reason: str | None = None) -> list[Any] | None:
    """What a model has answered, as one message; None where nothing is known of it."""
    parts = [part for item in items or () for _, part in _parts(item)]
    if not parts:
        return None
    message: dict[str, Any] = {"role": "assistant", "parts": parts}
    if finish_reason is not None:
        message["finish_reason"] = finish_reason
    return [message]


def chat_answer(messages: Iterable[Any] | None) -> list[Any] | None:
    """The answer of a chat completion, as its generation span has it: a message, or a whole response when streamed."""
    parts: list[Part] = []
    for message in messages or ():
        if _get(message, "object") == "response":
            parts.extend(part for item in _get(message, "output") or () for _, part in _parts(item))
            continue
        content = _get(message, "content") or _get(message, "refusal")
        if content:
            parts.extend(_contents(content))
        for call in _get(message, "tool_calls") or ():
            function = _get(call, "function")
            parts.append(_call(_get(call, "id"), _get(function, "name"), _get(function, "arguments")))
    return [{"role": "assistant", "parts": parts}] if parts else None


def calls_tools(messages: list[Any] | None) -> bool:
    """Whether an answer asks for a tool."""
    return any(part["type"] == "tool_call" for message in messages or () for part in message["parts"])


def _grouped(items: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Messages of the items: what one side says in a row is one message."""
    role = ""
    parts: list[Part] = []
    for item in items:
        for said_by, part in _parts(item):
            if said_by != role and parts:
                yield {"role": role, "parts": parts}
                parts = []
            role = said_by
            parts.append(part)
    if parts:
        yield {"role": role, "parts": parts}


def _parts(item: Any) -> Iterator[tuple[str, Part]]:
    """What one item says, and who."""
    kind = _get(item, "type") or "message"
    if kind == "message":
        role = _get(item, "role") or "assistant"
        for part in _contents(_get(item, "content")):
            yield "system" if role == "developer" else role, part
    elif kind == "reasoning":
        for content in (*(_get(item, "summary") or ()), *(_get(item, "content") or ())):
            yield "assistant", {"type": "reasoning", "content": _get(content, "text")}
    elif kind == "function_call":
        yield "assistant", _call(_get(item, "call_id"), _get(item, "name"), _get(item, "arguments"))
    elif kind.endswith(_OUTPUT):
        yield "tool", {"type": "tool_call_response", "id": _get(item, "call_id"), "response": _output(item)}
    elif kind.endswith(_CALL):  # one that the provider carries out itself: a search, say
        id = _get(item, "call_id") or _get(item, "id")
        yield "assistant", {"type": "tool_call", "id": id, "name": _get(item, "name") or kind.removesuffix(_CALL)}


def _contents(content: Any) -> Iterator[Part]:
    if isinstance(content, str):
        yield _text(content)
        return
    for part in content or ():
        kind = _get(part, "type")
        if kind in _TEXTS:
            yield _text(_get(part, "text"))
        elif kind == "refusal":
            yield _text(_get(part, "refusal"))
        elif kind in _FILES:
            yield _file(part, _FILES[kind])


def _output(item: Any) -> Any:
    output = _get(item, "output")
    return output if isinstance(output, str) or output is None else list(_contents(output))


def _file(part: Any, modality: str) -> Part:
    url = _get(part, "image_url") or _get(part, "file_url")
    if isinstance(url, str) and not url.startswith("data:"):
        return {"type": "uri", "modality": modality, "uri": url}
    file_id = _get(part, "file_id")
    if isinstance(file_id, str):
        return {"type": "file", "modality": modality, "file_id": file_id}
    return {"type": "blob", "modality": modality}


def _text(text: Any) -> Part:
    return {"type": "text", "content": text}


def _call(id: Any, name: Any, arguments: Any) -> Part:
    return {"type": "tool_call", "id": id, "name": name, "arguments": structured(arguments)}


def plain(result: Any, levels: int = _LEVELS) -> Any:
    """A tool's result or a run's output as JSON can say it; files are named, never included."""
    if isinstance(result, (ToolOutputImage, ToolOutputFileContent)):
        return _file(result, "image" if isinstance(result, ToolOutputImage) else "file")
    if isinstance(result, bytes):
        return {"type": "blob", "bytes": len(result)}
    if isinstance(result, (list, tuple)) and levels:
        return [plain(each, levels - 1) for each in result]
    return as_json(result)


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


__all__ = ["answer", "calls_tools", "chat_answer", "conversation", "plain"]
