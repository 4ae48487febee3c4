"""The content that spans carry, as messages of parts: one JSON text, flattened keys, or an event for each message.

It is handed to the events as it is found; whether a sink sees it is the content policy's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from .model_calls import Said, first, parsed

_INPUT: Final = "gen_ai.input.messages"
_OUTPUT: Final = "gen_ai.output.messages"
_INSTRUCTIONS: Final = ("gen_ai.system_instructions", "gen_ai.agent.system_instructions")
_ARGUMENTS: Final = ("gen_ai.tool.call.arguments", "tool_arguments", "gcp.vertex.agent.tool_call_args",
                     "tool.parameters", "traceloop.entity.input", "input.value")  # fmt: skip
_RESULT: Final = ("gen_ai.tool.call.result", "tool_response", "gcp.vertex.agent.tool_response",
                  "traceloop.entity.output", "output.value")  # fmt: skip
_RUN_INPUT: Final = (_INPUT, "input.value", "traceloop.entity.input")
_RUN_OUTPUT: Final = (_OUTPUT, "final_result", "output.value", "traceloop.entity.output")

#: By flavour: where the flattened messages of the request and of the answer stand.
_FLAT_INPUT: Final = ("llm.input_messages.", "gen_ai.prompt.")
_FLAT_OUTPUT: Final = ("llm.output_messages.", "gen_ai.completion.")
#: Events that tell a message each, with the role of its speaker; until 1.36.
_MESSAGE_EVENTS: Final[Mapping[str, str]] = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_CHOICE: Final = "gen_ai.choice"
_DETAILS: Final = "gen_ai.client.inference.operation.details"
#: More messages than this in flattened keys are not looked at.
_MOST: Final = 2_048


def asked(said: Said, span: ReadableSpan) -> Any:
    """The messages of a request, as far as they are known."""
    return _told(said, span, _INPUT, _FLAT_INPUT) or _in_events(span, choices=False)


def answered(said: Said, span: ReadableSpan) -> Any:
    """The messages of an answer."""
    return _told(said, span, _OUTPUT, _FLAT_OUTPUT) or _in_events(span, choices=True)


def instructions(said: Said) -> Any:
    """An agent's instructions."""
    return _plain(first(said, _INSTRUCTIONS))


def run_input(said: Said) -> Any:
    """What an agent was given."""
    return _plain(first(said, _RUN_INPUT))


def run_output(said: Said) -> Any:
    """What an agent gave back."""
    return _plain(first(said, _RUN_OUTPUT))


def arguments(said: Said) -> Any:
    """What a tool was called with."""
    return _plain(first(said, _ARGUMENTS))


def result(said: Said) -> Any:
    """What a tool gave back."""
    return _plain(first(said, _RESULT))


def _plain(value: Any) -> Any:
    """The value without OpenTelemetry's tuples; an object or a list where it is written as JSON."""
    if isinstance(value, str):
        return parsed(value) if value[:1] in ("{", "[") else value
    if isinstance(value, tuple):
        return [_plain(member) for member in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    return value


def _told(said: Said, span: ReadableSpan, whole: str, flat: tuple[str, ...]) -> Any:
    found = said.get(whole)
    if found is None:
        found = next((event.attributes[whole] for event in span.events
                      if event.name == _DETAILS and event.attributes and whole in event.attributes), None)  # fmt: skip
    if found is not None:
        return _plain(found)
    for prefix in flat:
        messages = _flattened(said, prefix)
        if messages:
            return messages
    return None


# -- flattened ---------------------------------------------------------------------------------------------------------


def _flattened(said: Said, prefix: str) -> list[Any] | None:
    rows: dict[int, dict[str, Any]] = {}
    for key, value in said.items():
        if key.startswith(prefix):
            number, _, rest = key[len(prefix) :].partition(".")
            if number.isdigit() and len(number) < 5 and int(number) < _MOST:
                rows.setdefault(int(number), {})[rest.removeprefix("message.")] = value
    return [_message(rows[number]) for number in sorted(rows)] or None


def _message(row: Mapping[str, Any]) -> dict[str, Any]:
    role = row.get("role")
    parts: list[dict[str, Any]] = []
    content = row.get("content")
    if role == "tool" and row.get("tool_call_id") is not None:
        parts.append({"type": "tool_call_response", "id": row["tool_call_id"], "response": _plain(content)})
    elif isinstance(content, str) and content:
        parts.append({"type": "text", "content": content})
    parts.extend({"type": "text", "content": value} for value in _texts(row))
    parts.extend(_tool_calls(row))
    return {"role": role if isinstance(role, str) else "assistant", "parts": parts}


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    """The texts among the contents of a message that has several."""
    for key in sorted(key for key in row if key.startswith("contents.") and key.endswith(".text")):
        if isinstance(row[key], str):
            yield row[key]


def _tool_calls(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    calls: dict[str, dict[str, Any]] = {}
    for key, value in row.items():
        if key.startswith("tool_calls."):
            number, _, rest = key.removeprefix("tool_calls.").partition(".")
            calls.setdefault(number, {})[rest.removeprefix("tool_call.").removeprefix("function.")] = value
    for number in sorted(calls, key=lambda number: (len(number), number)):
        call = calls[number]
        yield {
            "type": "tool_call",
            "id": call.get("id"),
            "name": call.get("name") or "",
            "arguments": _plain(call.get("arguments")),
        }


# -- events ------------------------------------------------------------------------------------------------------------


def _in_events(span: ReadableSpan, *, choices: bool) -> list[Any] | None:
    found: list[Any] = []
    for event in span.events:
        said = event.attributes or {}
        if choices:
            role = "assistant" if event.name == _CHOICE else None
            content = said.get("message", said.get("content"))
        else:
            role = _MESSAGE_EVENTS.get(event.name)
            content = said.get("content")
        if role is not None and content is not None:
            found.append({"role": role, "parts": _parts(_plain(content))})
    return found or None


def _parts(content: Any) -> list[Any]:
    """The parts of one message: text, or blocks as the provider has them."""
    if isinstance(content, Mapping) and "content" in content:
        content = content["content"]
    blocks = content if isinstance(content, list) else [content]
    return [_part(block) for block in blocks]


def _part(block: Any) -> Any:
    if isinstance(block, Mapping):
        if isinstance(block.get("text"), str):
            return {"type": "text", "content": block["text"]}
        if isinstance(use := block.get("toolUse"), Mapping):
            return {"type": "tool_call", "id": use.get("toolUseId"), "name": use.get("name"),
                    "arguments": use.get("input")}  # fmt: skip
        if isinstance(back := block.get("toolResult"), Mapping):
            return {"type": "tool_call_response", "id": back.get("toolUseId"), "response": back.get("content")}
        return dict(block)
    return {"type": "text", "content": block if isinstance(block, str) else str(block)}
