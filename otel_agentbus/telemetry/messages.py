"""Messages as people have them -> the parts schema of the GenAI conventions (v1.41).

Understood are plain strings, `{role, content}` messages with their tool calls, content blocks (`text`, `tool_use`,
`tool_result`, `thinking`, `image` ...), items (`function_call` ...), `{role, parts}` with or without types, and
messages that have this schema already. What is not understood becomes one text part with its JSON: nothing is lost,
and nothing raises. Values that come in here are JSON-safe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from otel_agentbus.events import JSON

from .rendering import BoundedCopy, dumps
from .truncation import omitted_message

Object = dict[str, JSON]

_MOST_MESSAGES = 512

#: How other schemas name the roles.
_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "function": "tool"}
#: Types of objects that are messages although they name no role.
_TYPES = frozenset((*_ROLES, "system", "user", "assistant", "tool", "developer"))
#: Who says a part that no message is around.
_SPEAKERS = {"tool_call": "assistant", "reasoning": "assistant", "tool_call_response": "tool"}
#: How providers name the reasons of the conventions.
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "STOP": "stop",
    "max_tokens": "length",
    "MAX_TOKENS": "length",
    "tool_calls": "tool_call",
    "tool_use": "tool_call",
    "function_call": "tool_call",
    "content_filtered": "content_filter",
    "SAFETY": "content_filter",
    "refusal": "content_filter",
}


def copied(raw: object, copy: BoundedCopy) -> JSON:
    """A bounded copy that prefers, of a long list of messages, the first one and the newest."""
    if type(raw) is str and raw[:2] == "[{":
        return parsed(copy.of(raw))
    if (type(raw) is not list and type(raw) is not tuple) or len(raw) < 2:
        return copy.of(raw)
    items = [raw[0], *raw[max(1, len(raw) - _MOST_MESSAGES) :]]
    first = copy.of(items[0])
    last: list[JSON] = []
    while len(items) > 1 and not copy.spent:
        last.append(copy.of(items.pop()))
    missing = len(raw) - 1 - len(last)
    note = omitted_message(None, f"…[truncated {missing} of {len(raw)} messages]")
    return [first, *([note] if missing else []), *reversed(last)]


def parsed(value: JSON) -> JSON:
    """What a string says if it is the text of a JSON object or array; any other value as it is."""
    if not isinstance(value, str) or value[:1] not in ("{", "[") or value[-1:] not in ("}", "]"):
        return value
    try:
        return BoundedCopy(len(value), len(value)).of(json.loads(value))
    except (ValueError, RecursionError):
        return value


def arguments(value: JSON) -> JSON:
    """The arguments or the result of a tool call: a JSON object in the form of a string becomes that object."""
    found = parsed(value)
    return found if isinstance(found, dict) else value


def system_instructions(value: JSON) -> list[JSON]:
    """Instructions as parts."""
    value = parsed(value) if isinstance(value, str) and value[:2] == "[{" else value
    if isinstance(value, dict) and "role" in value:
        return list(_message(value, "system")["parts"])  # type: ignore[arg-type]  # `parts` is a list
    return [_part(item) for item in value] if isinstance(value, list) else [_part(value)]


def input_messages(value: JSON) -> list[JSON]:
    """What was sent to a model, or to an agent."""
    return list(_messages(value, "user"))


def output_messages(value: JSON, finish_reasons: Sequence[str] | None, success: bool) -> list[JSON]:
    """What a model, or an agent, answered: each message with the finish reason that v1.41 wants."""
    found = _messages(value, "assistant")
    reasons = list(finish_reasons or ())
    for index, message in enumerate(found):
        reason = reasons[index] if index < len(reasons) else None
        message["finish_reason"] = _finish_reason(message, reason, success)
    return [_in_order(message) for message in found]


def _finish_reason(message: Object, reason: JSON, success: bool) -> str:
    for key in ("finish_reason", "stop_reason", "finishReason"):
        own = message.pop(key, None)
        reason = own if isinstance(own, str) and own else reason
    if isinstance(reason, str) and reason:
        return _FINISH_REASONS.get(reason, reason)
    if not success:
        return "error"
    parts = message["parts"]
    assert isinstance(parts, list)
    return "tool_call" if any(isinstance(part, dict) and part["type"] == "tool_call" for part in parts) else "stop"


def _in_order(message: Object) -> Object:
    """What the schema requires stands first: that is what is kept of an object that must be cut."""
    required = ("role", "parts", "finish_reason")
    return {key: message[key] for key in required} | {key: message[key] for key in message if key not in required}


def _messages(value: JSON, role: str) -> list[Object]:
    if not isinstance(value, list):
        return [_message(value, role)]
    found: list[Object] = []
    loose: list[JSON] = []  # parts without a message around them make one with their neighbours
    for item in value:
        if _is_message(item):
            found.append(_message(item, role))
            loose = []
            continue
        part = _part(item)
        speaker = _SPEAKERS.get(str(part["type"]), role)
        if not loose or found[-1]["role"] != speaker:
            loose = []
            found.append({"role": speaker, "parts": loose})
        loose.append(part)
    return found or [{"role": role, "parts": []}]


def _is_message(item: JSON) -> bool:
    if not isinstance(item, dict):
        return False
    return "role" in item or "message" in item or ("content" in item and item.get("type") in _TYPES)


def _message(value: JSON, role: str) -> Object:
    if not isinstance(value, dict) or not _is_message(value):
        return {"role": role, "parts": [_part(value)]}
    rest = dict(value)
    inner = rest.pop("message", None)  # a choice is a message and why it ended
    if isinstance(inner, dict):
        rest = {**inner, **{key: said for key, said in rest.items() if key not in ("index", "logprobs")}}
    elif inner is not None:
        rest.setdefault("content", inner)
    kind = rest.pop("type", None)
    said_role = rest.pop("role", None) or (kind if kind != "message" else None) or role
    said_role = said_role if isinstance(said_role, str) else dumps(said_role)
    parts: list[JSON] = [*_reasoning(rest), *_contents(rest, said_role), *_calls(rest)]
    message: Object = {"role": _ROLES.get(said_role, said_role), "parts": parts}
    name = rest.pop("name", None)
    if isinstance(name, str):
        message["name"] = name
    return message | {key: said for key, said in rest.items() if said not in (None, [], {}) and key not in message}


def _reasoning(rest: Object) -> list[Object]:
    said = rest.pop("reasoning_content", None)
    return [{"type": "reasoning", "content": _text(said)}] if said else []


def _contents(rest: Object, role: str) -> list[Object]:
    parts = rest.pop("parts", None)
    content = rest.pop("content", None)
    found = [_part(item) for item in parts] if isinstance(parts, list) else [] if parts is None else [_part(parts)]
    if role in ("tool", "function") and content is not None and not _answers(content):
        answer: Object = {"type": "tool_call_response", "id": rest.pop("tool_call_id", None)}
        return [*found, answer | {"response": arguments(content)}]
    items = content if isinstance(content, list) else [] if content is None else [content]
    return found + [_part(item) for item in items]


def _answers(content: JSON) -> bool:
    """Does this content itself say whose answer it is?"""
    kinds = ("tool_call_response", "tool_result", "function_call_output")
    return isinstance(content, list) and any(isinstance(item, dict) and item.get("type") in kinds for item in content)


def _calls(rest: Object) -> list[Object]:
    calls = rest.pop("tool_calls", None)
    found = [_tool_call(call) for call in calls] if isinstance(calls, list) else []
    old = rest.pop("function_call", None)
    return found + ([_tool_call(old)] if isinstance(old, dict) else [])


def _tool_call(call: JSON) -> Object:
    if not isinstance(call, dict):
        return _part(call)
    inner = call.get("function")
    source = {**call, **inner} if isinstance(inner, dict) else call
    name = source.get("name")
    given = next((source[key] for key in ("arguments", "args", "input") if key in source), None)
    made: Object = {"type": "tool_call", "name": name if isinstance(name, str) else _text(name)}
    identity = source.get("id") or source.get("call_id") or source.get("tool_call_id")
    if identity is not None:
        made["id"] = _text(identity)
    return made if given is None else made | {"arguments": arguments(given)}


def _tool_answer(part: Object) -> Object:
    identity = next((part[key] for key in ("id", "tool_use_id", "tool_call_id", "call_id") if part.get(key)), None)
    response = next((part[key] for key in ("response", "result", "content", "output") if key in part), None)
    return {
        "type": "tool_call_response",
        "id": None if identity is None else _text(identity),
        "response": arguments(response),
    }


def _said(part: Object, *keys: str, kind: str = "text") -> Object:
    for key in keys:
        if part.get(key) is not None:
            return {"type": kind, "content": _text(part[key])}
    return part


def _plain(part: Object) -> Object:
    return _said(part, "content", "text")


def _thought(part: Object) -> Object:
    return _said(part, "content", "thinking", "text", "summary", "reasoning", kind="reasoning")


def _text(value: JSON) -> str:
    if isinstance(value, list) and all(isinstance(item, dict) and isinstance(item.get("text"), str) for item in value):
        return "\n".join(str(item["text"]) for item in value if isinstance(item, dict))
    return value if isinstance(value, str) else dumps(value)


def _media(modality: str, *keys: str) -> Callable[[Object], Object]:
    def media(part: Object) -> Object:
        source = next((part[key] for key in keys if part.get(key) is not None), part)
        if isinstance(source, str):
            return _reference(source, modality)
        return _medium(source, modality) if isinstance(source, dict) else part

    return media


def _medium(source: Mapping[str, JSON], modality: str) -> Object:
    kind = source.get("mime_type") or source.get("media_type") or source.get("format")
    about: Object = {"modality": modality}
    if kind is not None:
        about["mime_type"] = _text(kind)
    for key in ("url", "uri", "file_uri", "image_url"):
        if isinstance(source.get(key), str):
            return _reference(_text(source[key]), modality) | (about if kind is not None else {})
    if isinstance(source.get("file_id"), str):
        return {"type": "file", **about, "file_id": source["file_id"]}
    for key in ("data", "content", "file_data"):
        if source.get(key) is not None:
            return {"type": "blob", **about, "content": _text(source[key])}
    return {"type": modality, **{key: said for key, said in source.items() if key != "type"}}


def _reference(url: str, modality: str) -> Object:
    head, comma, data = url.partition(",")
    if url.startswith("data:") and comma:
        return {"type": "blob", "modality": modality, "mime_type": head[5:].split(";")[0], "content": data}
    return {"type": "uri", "modality": modality, "uri": url}


def _as_it_is(part: Object) -> Object:
    return {"type": part["type"], **part}


def _schema_media(part: Object) -> Object:
    if isinstance(part.get("file"), dict):
        return _media("document", "file")(part)
    return {"type": part["type"], "modality": part.get("modality") or "document", **part}


_PARTS: dict[str, Callable[[Object], Object]] = {
    **dict.fromkeys(("text", "input_text", "output_text"), _plain),
    **dict.fromkeys(("reasoning", "thinking"), _thought),
    **dict.fromkeys(("tool_call", "tool_use", "function_call", "function"), _tool_call),
    **dict.fromkeys(("tool_call_response", "tool_result", "function_call_output"), _tool_answer),
    **dict.fromkeys(("blob", "file", "uri"), _schema_media),
    **dict.fromkeys(("image", "image_url", "input_image"), _media("image", "image_url", "source", "image")),
    **dict.fromkeys(("audio", "input_audio"), _media("audio", "input_audio", "audio", "source")),
    **dict.fromkeys(("document", "input_file"), _media("document", "source", "document")),
    **dict.fromkeys(("video", "input_video"), _media("video", "source", "video", "video_url")),
}

#: Parts that are known by their one key instead of a type.
_UNTYPED: dict[str, Callable[[JSON], Object]] = {
    "text": lambda said: {"type": "text", "content": _text(said)},
    "function_call": _tool_call,
    "functionCall": _tool_call,
    "function_response": lambda said: _tool_answer(said) if isinstance(said, dict) else _part(said),
    "inline_data": lambda said: _medium(said, "image") if isinstance(said, dict) else _part(said),
    "file_data": lambda said: _medium(said, "image") if isinstance(said, dict) else _part(said),
}


def _part(value: JSON) -> Object:
    if isinstance(value, str):
        return {"type": "text", "content": value}
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str):
            return _PARTS.get(kind, _as_it_is)(value)
        for key, make in _UNTYPED.items():
            if key in value and len(value) <= 2:
                return make(value[key])
    return {"type": "text", "content": dumps(value)}
