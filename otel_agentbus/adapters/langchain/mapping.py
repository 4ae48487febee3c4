"""What LangChain says about model and tool calls, in the words of our events."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import Generation, LLMResult

from .messages import content_of, plain, rendered

#: Providers under their OpenTelemetry names, where LangChain's own is another.
PROVIDERS: Mapping[str, str] = {
    "amazon_bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "ibm": "ibm.watsonx.ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertexai": "gcp.vertex_ai",
    "xai": "x_ai",
}
#: What the request says, by the names that providers' classes have for it.
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "temperature": ("temperature", "ls_temperature"),
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens", "ls_max_tokens"),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "seed": ("seed",),
    "stop_sequences": ("stop", "stop_sequences", "ls_stop"),
}
_REASONS = ("finish_reason", "stop_reason", "stopReason", "done_reason")
#: Under which names an application says which conversation it is; LangSmith reads the same.
_CONVERSATIONS = ("thread_id", "session_id", "conversation_id")
_MODALITIES = ("audio", "image", "video")


def conversation_id(metadata: Mapping[str, Any]) -> str | None:
    """The application's id of the conversation, if it has given one."""
    found = next((metadata[name] for name in _CONVERSATIONS if metadata.get(name) is not None), None)
    return found if found is None else str(found)


def provider(metadata: Mapping[str, Any]) -> str | None:
    """The provider under its OpenTelemetry name."""
    name = metadata.get("ls_provider")
    return PROVIDERS.get(name, name) if isinstance(name, str) and name else None


def model(metadata: Mapping[str, Any], params: Mapping[str, Any], serialized: Mapping[str, Any] | None) -> str | None:
    """The model that is asked, as far as its class tells."""
    given = (metadata.get("ls_model_name"), params.get("model"), params.get("model_name"), params.get("model_id"))
    found = next((name for name in given if isinstance(name, str) and name), None)
    return found or (serialized or {}).get("name")


def parameters(metadata: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any] | None:
    """How it is asked."""
    said = {**metadata, **{name: value for name, value in params.items() if value is not None}}
    found = {
        name: next((said[key] for key in keys if said.get(key) is not None), None) for name, keys in _PARAMETERS.items()
    }
    if isinstance(found["stop_sequences"], str):
        found["stop_sequences"] = [found["stop_sequences"]]
    return {name: value for name, value in found.items() if value is not None} or None


def answered(result: LLMResult) -> dict[str, Any]:
    """What the answer of a model says, whole or as far as it came."""
    generations = list(_generations(result))
    messages = [message for one in generations if (message := _message(one)) is not None]
    said: dict[str, Any] = dict(result.llm_output or {})
    for message in messages[:1]:
        said.update(message.response_metadata)
    reasons = [reason for one in generations if (reason := _reason(one)) is not None]
    fields = {
        "response_model": _text(said, "model_name", "model", "model_id"),
        "response_id": _response_id(said, messages),
        "finish_reasons": reasons or None,
        "service_tier": _text(said, "service_tier"),
        "messages": [_rendered(one) for one in generations] or None,
    }
    return fields | usage(messages, said)


def was_cached(result: LLMResult) -> bool:
    """Whether LangChain's own cache has given this answer: it marks what comes from there as free."""
    messages = [message for one in _generations(result) if (message := _message(one)) is not None]
    return bool(messages) and all((message.usage_metadata or {}).get("total_cost") == 0 for message in messages)


def usage(messages: list[AIMessage], said: Mapping[str, Any]) -> dict[str, Any]:
    """What the call has used: the message's own counts, or what older classes tell beside the answer."""
    counted = messages[0].usage_metadata if messages else None
    if not counted:
        return _usage_of_old(said)
    read = _details(counted.get("input_token_details"))
    written = _details(counted.get("output_token_details"))
    lasting = {kept: _count(read, f"ephemeral_{kept}_input_tokens") for kept in ("5m", "1h")}
    further = {
        "cache_write_5m_tokens": lasting["5m"],
        "cache_write_1h_tokens": lasting["1h"],
        **{f"input_{kind}_tokens": _count(read, kind) for kind in _MODALITIES},
        **{f"output_{kind}_tokens": _count(written, kind) for kind in _MODALITIES},
    }
    return {
        "input_tokens": _count(counted, "input_tokens"),
        "output_tokens": _count(counted, "output_tokens"),
        "cache_read_input_tokens": _count(read, "cache_read"),
        "cache_write_input_tokens": _count(read, "cache_creation") or sum(n or 0 for n in lasting.values()) or None,
        "reasoning_output_tokens": _count(written, "reasoning"),
        "usage": {name: count for name, count in further.items() if count} or None,
        "cost_usd": _cost(said),
    }


def _usage_of_old(said: Mapping[str, Any]) -> dict[str, Any]:
    counted = _details(said.get("token_usage") or said.get("usage"))
    return {
        "input_tokens": _count(counted, "prompt_tokens", "input_tokens"),
        "output_tokens": _count(counted, "completion_tokens", "output_tokens"),
        "cost_usd": _cost(said),
    }


def _cost(said: Mapping[str, Any]) -> float | None:
    cost = _details(said.get("token_usage")).get("cost")
    return float(cost) if isinstance(cost, (int, float)) and not isinstance(cost, bool) else None


def _details(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(counted: Mapping[str, Any], *names: str) -> int | None:
    """A count under one of these names; a service tier may stand before it ("flex_cache_read")."""
    for name in names:
        for key, value in counted.items():
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            if is_count and (key == name or key in (f"flex_{name}", f"priority_{name}")):
                return int(value)
    return None


def _generations(result: LLMResult) -> Iterator[Generation]:
    for row in result.generations[:1]:
        yield from (one for one in row if isinstance(one, Generation))


def _message(generation: Generation) -> AIMessage | None:
    message = getattr(generation, "message", None)
    return message if isinstance(message, AIMessage) else None


def _rendered(generation: Generation) -> dict[str, Any]:
    message = getattr(generation, "message", None)
    if isinstance(message, BaseMessage):
        return rendered(message)
    return {"role": "assistant", "parts": [{"type": "text", "content": generation.text}]}


def _reason(generation: Generation) -> str | None:
    message = _message(generation)
    said = {**(generation.generation_info or {}), **(message.response_metadata if message is not None else {})}
    return _text(said, *_REASONS)


def _response_id(said: Mapping[str, Any], messages: list[AIMessage]) -> str | None:
    """The provider's id of the answer; LangChain invents one where it gives none, which is not taken."""
    own = messages[0].id if messages else None
    invented = own is None or own.startswith(("run-", "lc_"))
    return _text(said, "id", "response_id") or (None if invented else own)


def _text(said: Mapping[str, Any], *names: str) -> str | None:
    return next((said[name] for name in names if isinstance(said.get(name), str) and said[name]), None)


def returned(output: Any) -> dict[str, Any]:
    """What a tool's end says. What it gives beside the model's answer (its artifact) is left out."""
    if isinstance(output, ToolMessage):
        if output.status == "error":
            return {"outcome": "error", "error_type": "tool_error", "error_message": str(output.content)}
        return {"result": content_of(output)}
    update = getattr(output, "update", None)  # a command's
    return {"result": plain(update if isinstance(update, Mapping) else output)}


def is_control_flow(error: BaseException) -> bool:
    """Whether it is LangGraph's way to leave a node, and no failure: an interrupt, a command for the parent graph."""
    return _is(error, "GraphBubbleUp")


def is_interrupt(error: BaseException) -> bool:
    """Whether it waits for a human."""
    return _is(error, "GraphInterrupt")


def handed_over_to(error: BaseException) -> str | None:
    """The node of the parent graph that goes on after a handoff."""
    command = error.args[0] if _is(error, "ParentCommand") and error.args else None
    goto = getattr(command, "goto", None)
    return goto if isinstance(goto, str) and goto else None


def _is(error: BaseException, name: str) -> bool:
    errors = sys.modules.get("langgraph.errors")  # LangChain's core is used without it, too
    kind = getattr(errors, name, None)
    return isinstance(kind, type) and isinstance(error, kind)
