"""LangChain's messages in the conventions' parts schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from .. import plain as values


def rendered(message: BaseMessage) -> dict[str, Any]:
    """One message; binary content is left out."""
    if isinstance(message, ToolMessage):
        answer = {"type": "tool_call_response", "id": message.tool_call_id, "response": content_of(message)}
        return {"role": "tool", "parts": [answer]}
    parts = list(_parts(message.content))
    if isinstance(message, AIMessage):
        parts = [*_thoughts(message), *parts, *_tool_calls(message)]
    return {"role": _role(message), "parts": parts}


def content_of(message: BaseMessage) -> Any:
    """A message's content as it is where that is text, else its parts."""
    return message.content if isinstance(message.content, str) else list(_parts(message.content))


def _role(message: BaseMessage) -> str:
    if isinstance(message, AIMessage):
        return "assistant"
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, ChatMessage):
        return str(message.role)
    return "tool" if isinstance(message, FunctionMessage) else str(message.type)


def _parts(content: str | Sequence[Any]) -> Iterator[dict[str, Any]]:
    if isinstance(content, str):
        if content:
            yield {"type": "text", "content": content}
        return
    for block in content:
        part = {"type": "text", "content": block} if isinstance(block, str) else _part(block)
        if part is not None:
            yield part


def _part(block: Any) -> dict[str, Any] | None:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind == "text":
        return {"type": "text", "content": block.get("text", "")}
    if kind in ("reasoning", "thinking"):
        thought = block.get("reasoning") or block.get("thinking")
        return {"type": "reasoning", "content": thought} if thought else None
    if kind in ("image", "audio", "video", "file", "image_url"):
        uri = block.get("url") or block.get(kind)
        uri = uri.get("url") if isinstance(uri, Mapping) else uri
        if isinstance(uri, str) and not uri.startswith("data:"):
            return {"type": "uri", "modality": str(kind).removesuffix("_url"), "uri": uri}
    return None


def _thoughts(message: AIMessage) -> Iterator[dict[str, Any]]:
    thought = message.additional_kwargs.get("reasoning_content")
    if isinstance(thought, str) and thought:
        yield {"type": "reasoning", "content": thought}


def _tool_calls(message: AIMessage) -> Iterator[dict[str, Any]]:
    for call in (*message.tool_calls, *message.invalid_tool_calls):
        arguments = plain(call.get("args"))
        yield {"type": "tool_call", "id": call.get("id"), "name": call.get("name"), "arguments": arguments}


def plain(value: Any) -> Any:
    """What JSON can say of a state, an input or a result, with its messages in the parts schema; nothing binary."""
    return values.plain(value, lambda one: rendered(one) if isinstance(one, BaseMessage) else None)


def question(inputs: Any) -> Any:
    """What a run is asked: the messages of a state that is a conversation, else its whole input."""
    messages = inputs.get("messages") if isinstance(inputs, Mapping) else None
    if isinstance(messages, list):
        try:
            return [rendered(message) for message in convert_to_messages(messages)]
        except Exception:  # noqa: BLE001 - these are messages of the application's own, no conversation of LangChain's
            return plain(inputs)
    return plain(inputs)


def answer(outputs: Any) -> Any:
    """What a run says in the end: the last message of a state that is a conversation, else its whole output."""
    messages = outputs.get("messages") if isinstance(outputs, Mapping) else None
    if isinstance(messages, list) and messages and isinstance(messages[-1], BaseMessage):
        return plain(messages[-1])
    return plain(outputs)


class Conversation:
    """The messages of one agent in the conventions' parts schema, each converted once however often it is sent again.

    A model call's input is the whole conversation so far, so converting it anew each time would cost its square. What
    is converted refers to the texts, it does not copy them.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[BaseMessage, Any, dict[str, Any]]] = {}

    def render(self, messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
        """These messages, in their order."""
        fresh: dict[int, tuple[BaseMessage, Any, dict[str, Any]]] = {}
        known = self._known
        for message in messages:
            entry = known.get(id(message))
            if entry is None or entry[0] is not message or entry[1] is not message.content:
                entry = (message, message.content, rendered(message))
            fresh[id(message)] = entry
        self._known = fresh
        return [fresh[id(message)][2] for message in messages]
