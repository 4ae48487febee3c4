"""What ADK says of its agents, model calls and tool calls, in the words of our events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ... import observe
from ...observe import AgentBlock, LlmBlock, ToolBlock
from ..losses import Shielded
from ..plain import plain
from .providers import named, provider_of

#: Parameters of a request, by their names in the conventions.
_PARAMETERS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_output_tokens",
    "stop_sequences": "stop_sequences",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "choice.count": "candidate_count",
}
#: A call begins and ends, and is counted, whatever its contents are.
_UNTOLD = Shielded("what a model of google-adk was asked or has answered could not be told")
_ROLES: Mapping[str, str] = {"model": "assistant"}


def agent_block(agent: Any, *, conversation_id: str | None = None, input: Any = None, **attributes: Any) -> AgentBlock:
    """The run of an agent (or of a workflow) that begins."""
    model = getattr(agent, "model", None)
    instructions = getattr(agent, "instruction", None)
    return observe.agent(
        getattr(agent, "name", None) or "agent",
        model=named(model),
        provider=provider_of(model),
        conversation_id=conversation_id,
        instructions=instructions if isinstance(instructions, str) and instructions else None,
        input=input,
        **{name: value for name, value in attributes.items() if value is not None},
    )


def llm_block(agent: Any, request: Any, *, stream: bool, content: bool) -> LlmBlock:
    """The model call that is about to be sent, with what is asked and how."""
    config = getattr(request, "config", None)
    contents = getattr(request, "contents", None) or []
    messages = None
    if content:
        with _UNTOLD:
            messages = _request_messages(config, contents)
    model = getattr(agent, "model", None)
    asked = getattr(request, "model", None) or named(model)
    return observe.llm(
        named(asked),
        provider=provider_of(asked if isinstance(model, str) or model is None else model),
        stream=stream or None,
        messages=messages,
        messages_count=len(contents),
        parameters=_parameters(config) or None,
    )


def tool_block(tool: Any, call_id: str | None, arguments: Any) -> ToolBlock:
    """The tool call that begins."""
    said = {"adk.tool.long_running": True} if getattr(tool, "is_long_running", False) is True else {}
    return observe.tool(getattr(tool, "name", None) or "tool", tool_call_id=call_id, arguments=plain(arguments), **said)


def llm_end(last: Any, usage: Any, answers: Iterable[Any]) -> dict[str, Any]:
    """What a model call's end says: the last response, the last usage that was reported, and the answer's contents."""
    fields = tokens(usage)
    with _UNTOLD:
        fields["messages"] = conversation(answers) or None
    if last is None:
        return fields
    fields["response_model"] = getattr(last, "model_version", None)
    reason, code = _word(getattr(last, "finish_reason", None)), _word(getattr(last, "error_code", None))
    if reason:
        fields["finish_reasons"] = [reason]
    if code and code != reason:  # else the model has answered, if with nothing: that is why it has stopped
        fields["error_type"], fields["error_message"] = code, getattr(last, "error_message", None)
    return fields


def tokens(usage: Any) -> dict[str, Any]:
    """The counts of one call as totals.

    Gemini counts thoughts beside the answer, and OpenAI's way (LiteLlm) inside it: the total tells which it is.
    """
    if usage is None:
        return {}
    asked = _sum(_count(usage, "prompt_token_count"), _count(usage, "tool_use_prompt_token_count"))
    answered = _count(usage, "candidates_token_count")
    thoughts = _count(usage, "thoughts_token_count")
    within = thoughts is not None and _count(usage, "total_token_count") == (asked or 0) + (answered or 0)
    return {
        "input_tokens": asked,
        "output_tokens": answered if within else _sum(answered, thoughts),
        "cache_read_input_tokens": _count(usage, "cached_content_token_count"),
        "cache_write_input_tokens": _count(usage, "cache_creation_input_tokens"),  # LiteLlm's and Anthropic's
        "reasoning_output_tokens": thoughts,
    }


def conversation(contents: Iterable[Any]) -> list[dict[str, Any]]:
    """Contents in the conventions' parts schema; what is binary is named, not copied."""
    messages = []
    for content in contents:
        parts = [_part(part) for part in getattr(content, "parts", None) or ()]
        if parts:
            role = getattr(content, "role", None) or "user"
            told = any(part["type"] == "tool_call_response" for part in parts)
            messages.append({"role": "tool" if told else _ROLES.get(role, role), "parts": parts})
    return messages


def said(content: Any) -> Any:
    """A message as its text or, where it is more than that, as messages; None where there is nothing."""
    parts = getattr(content, "parts", None) or ()
    if not parts:
        return None
    texts = [getattr(part, "text", None) for part in parts if not getattr(part, "thought", None)]
    if texts and all(isinstance(text, str) for text in texts):
        return "".join(texts)  # type: ignore[arg-type]  # they are texts
    return conversation([content])


def _request_messages(config: Any, contents: Iterable[Any]) -> list[dict[str, Any]]:
    messages = conversation(contents)
    system = getattr(config, "system_instruction", None)
    if isinstance(system, str) and system:
        messages.insert(0, {"role": "system", "parts": [{"type": "text", "content": system}]})
    elif system is not None:
        given = system if isinstance(system, list) else [system]
        messages[:0] = [{**message, "role": "system"} for message in conversation(given)]
    return messages


def _part(part: Any) -> dict[str, Any]:
    text = getattr(part, "text", None)
    if text is not None:
        return {"type": "reasoning" if getattr(part, "thought", None) else "text", "content": text}
    if (call := getattr(part, "function_call", None)) is not None:
        return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": plain(call.args)}
    if (response := getattr(part, "function_response", None)) is not None:
        return {"type": "tool_call_response", "id": response.id, "response": plain(response.response)}
    return _other_part(part)


def _other_part(part: Any) -> dict[str, Any]:
    if (file := getattr(part, "file_data", None)) is not None:
        return {"type": "uri", "uri": file.file_uri, "mime_type": file.mime_type}
    if (blob := getattr(part, "inline_data", None)) is not None:
        return {"type": "blob", "mime_type": blob.mime_type}
    if (code := getattr(part, "executable_code", None)) is not None:
        return {"type": "executable_code", "content": code.code}
    if (result := getattr(part, "code_execution_result", None)) is not None:
        return {"type": "code_execution_result", "content": result.output}
    return {"type": "other"}


def _parameters(config: Any) -> dict[str, Any]:
    given = {name: getattr(config, theirs, None) for name, theirs in _PARAMETERS.items()}
    return {name: value for name, value in given.items() if value is not None}


def _word(value: Any) -> str | None:
    """An enumeration's value, or a text, as the conventions write them."""
    if value is None:
        return None
    return str(getattr(value, "value", value)).lower()


def _count(usage: Any, name: str) -> int | None:
    """A count of a usage, which a model class of the application's may have filled with anything."""
    count = getattr(usage, name, None)
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _sum(*counts: int | None) -> int | None:
    given = [count for count in counts if count is not None]
    return sum(given) if given else None
