"""What the lines of Claude Code say, in the words of our events: contents, usage, results, names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Raw = Mapping[str, Any]

#: The tools that run a sub-agent; the older name first.
DELEGATING = frozenset({"Task", "Agent"})
#: What ends a task, in both of the ways that it is told.
ENDED_TASK = frozenset({"completed", "failed", "stopped", "killed"})
#: What happens to a turn beside its calls, and what of it is told: no content.
MOMENTS = frozenset({"api_retry", "compact_boundary", "model_fallback", "model_refusal_fallback", "permission_denied"})
_TOLD = frozenset({"attempt", "max_retries", "retry_delay_ms", "error_status", "error", "trigger", "pre_tokens",
                   "tool_name", "tool_use_id", "original_model", "fallback_model"})  # fmt: skip
_ABORTED = frozenset({"aborted_streaming", "aborted_tools"})
#: The model that the program names as the author of what it says itself, of an API error.
SYNTHETIC = "<synthetic>"
#: How much of a failed tool's text becomes its error's message.
_MESSAGE = 500
#: Counts of the usage that have a field of their own.
_CACHE_READ, _CACHE_WRITE = "cache_read_input_tokens", "cache_creation_input_tokens"
_PROVIDERS = {
    "firstParty": "anthropic",
    "anthropicAws": "anthropic",
    "anthropicGoogleCloud": "anthropic",
    "bedrock": "aws.bedrock",
    "mantle": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
    "foundry": "azure.ai.inference",
}
_SWITCHES = {
    "CLAUDE_CODE_USE_BEDROCK": "aws.bedrock",
    "CLAUDE_CODE_USE_VERTEX": "gcp.vertex_ai",
    "CLAUDE_CODE_USE_FOUNDRY": "azure.ai.inference",
}


def blocks_of(message: Raw) -> list[Raw]:
    """The content blocks of a user's or an assistant's line; a text stands for a block."""
    content = (message.get("message") or {}).get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content or () if isinstance(block, dict)]


def parts_of(blocks: list[Raw]) -> list[dict[str, Any]]:
    """Content blocks as parts; what is binary is left out."""
    return [part for block in blocks if (part := _part(block)) is not None]


def _part(block: Raw) -> dict[str, Any] | None:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "content": block.get("text")}
    if kind == "thinking":
        return {"type": "reasoning", "content": block.get("thinking")}
    if kind in ("tool_use", "server_tool_use"):
        return {"type": "tool_call", "id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")}
    if "tool_use_id" in block:
        said = text_of(block.get("content"))
        return {"type": "tool_call_response", "id": block["tool_use_id"], "response": said}
    return None


def user_message(text: str) -> dict[str, Any]:
    """What the user says, as a message."""
    return {"role": "user", "parts": [{"type": "text", "content": text}]}


def text_of(content: Any) -> Any:
    """A tool's result: its text where it is nothing but text, else its blocks without what is binary."""
    if not isinstance(content, list):
        return content
    blocks = [block for block in content if isinstance(block, dict)]
    if blocks and all(block.get("type") == "text" for block in blocks):
        return "\n".join(str(block.get("text", "")) for block in blocks)
    return [block if block.get("type") != "image" else {"type": "image"} for block in blocks]


def failure(said: Any) -> str | None:
    """The text of a tool's error, cut where it is long."""
    return said[:_MESSAGE] if isinstance(said, str) else None


def merged(known: dict[str, Any], more: Any) -> dict[str, Any]:
    """The usage of a response that is told several times over: of each count the highest, which is the latest."""
    for name, value in more.items() if isinstance(more, dict) else ():
        before = known.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            known[name] = merged(dict(before), value)
        elif not isinstance(value, int) or not isinstance(before, int) or value > before:
            known[name] = value if value is not None or before is None else before
    return known


def usage_fields(usage: Raw) -> dict[str, Any]:
    """The usage of one model call; Anthropic's input tokens leave out the cached ones, ours have them."""
    if not usage:
        return {}
    inputs, read, write = (_count(usage, name) for name in ("input_tokens", _CACHE_READ, _CACHE_WRITE))
    further: dict[str, int] = {}
    hour = _count(_object(usage, "cache_creation"), "ephemeral_1h_input_tokens")
    if hour:
        further["cache_write_1h_tokens"] = hour
    server = _object(usage, "server_tool_use")
    further |= {name: count for name in server if (count := _count(server, name))}
    return {
        "input_tokens": None if inputs is None else inputs + (read or 0) + (write or 0),
        "output_tokens": _count(usage, "output_tokens"),
        "cache_read_input_tokens": read,
        "cache_write_input_tokens": write,
        "reasoning_output_tokens": _count(_object(usage, "output_tokens_details"), "thinking_tokens"),
        "service_tier": text(usage.get("service_tier")),
        "usage": further or None,
    }


def text(value: object) -> str | None:
    """A text that says something."""
    return value if isinstance(value, str) and value else None


def _count(counts: Raw, name: str) -> int | None:
    found = counts.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _object(holder: Raw, name: str) -> Raw:
    found = holder.get(name)
    return found if isinstance(found, dict) else {}


def provider_of(model: str | None, options: Any) -> str:
    """Who serves the model, as far as its name and the options say."""
    given = getattr(options, "env", None) or {}
    for switch, provider in _SWITCHES.items():
        if str(given.get(switch, "")).lower() in ("1", "true", "yes", "on"):
            return provider
    name = model or ""
    if name.startswith(("arn:", "anthropic.")) or ".anthropic." in name:
        return "aws.bedrock"
    return "gcp.vertex_ai" if "@" in name else "anthropic"


def agent_name(options: Any) -> str:
    """The agent that the options choose for the conversation, or the program's own."""
    return str((getattr(options, "extra_args", None) or {}).get("agent") or "claude")


def instructions_of(options: Any) -> Any:
    """The system prompt, as far as it is the application's own."""
    prompt = getattr(options, "system_prompt", None)
    if isinstance(prompt, dict):
        return prompt.get("append") or prompt.get("content")
    return prompt


def moment(line: Raw) -> dict[str, Any]:
    """What is told of a retry, a compaction, a refusal."""
    said = {**line, **(line.get("compact_metadata") or {})}
    return {name: value for name, value in said.items() if name in _TOLD and isinstance(value, (str, int))}


def model_totals(result: Raw, before: Raw) -> tuple[dict[str, int] | None, float | None]:
    """Tokens and cost of the turn that this result ends; the program tells them as running totals of the session."""
    since = result.get("model_usage_since_last_result")
    if isinstance(since, dict):
        return _tokens(since), _sum(since, "costUSD")
    total, last = result.get("total_cost_usd"), before.get("total_cost_usd") or 0.0
    cost = None if total is None else total - last if total >= last else total  # a /clear begins anew
    now, then = _tokens(result.get("modelUsage") or {}), _tokens(before.get("modelUsage") or {}) or {}
    if now is None:
        return None, cost
    if all(count >= then.get(name, 0) for name, count in now.items()):
        now = {name: count - then.get(name, 0) for name, count in now.items()}
    return now, cost


def _tokens(models: Raw) -> dict[str, int] | None:
    if not models:
        return None
    read, write = _sum(models, "cacheReadInputTokens"), _sum(models, "cacheCreationInputTokens")
    return {
        "input_tokens": int((_sum(models, "inputTokens") or 0) + (read or 0) + (write or 0)),
        "output_tokens": int(_sum(models, "outputTokens") or 0),
    }


def _sum(models: Raw, name: str) -> float | None:
    values = [model[name] for model in models.values() if isinstance(model.get(name), (int, float))]
    return sum(values) if values else None


def result_fields(result: Raw) -> dict[str, Any]:
    """What the end of a turn says, but for tokens and cost."""
    structured = result.get("structured_output")
    models = result.get("modelUsage") or {}
    providers = {_PROVIDERS.get(str(model.get("provider"))) for model in models.values() if isinstance(model, dict)} - {
        None
    }
    denied = result.get("permission_denials")
    attributes = {
        "claude.session_id": result.get("session_id"),
        "claude.num_turns": result.get("num_turns"),
        "claude.result": result.get("subtype"),
        "claude.terminal_reason": result.get("terminal_reason"),
        "claude.stop_reason": result.get("stop_reason"),
        "claude.permission_denials": len(denied) if denied and isinstance(denied, list) else None,
    }
    return {
        "output": result.get("result") if structured is None else structured,
        "model_provider": next(iter(providers)) if len(providers) == 1 else None,
        "attributes": {name: value for name, value in attributes.items() if value is not None},
        **_verdict(result),
    }


def is_aborted(result: Raw) -> bool:
    """Whether the turn was interrupted."""
    return result.get("terminal_reason") in _ABORTED


def _verdict(result: Raw) -> dict[str, Any]:
    if not result.get("is_error"):
        return {}
    status, subtype = result.get("api_error_status"), result.get("subtype")
    told = [str(error.get("message", error)) if isinstance(error, dict) else str(error)
            for error in result.get("errors") or ()]  # fmt: skip
    said = "; ".join(told) or result.get("result") or subtype
    kind = str(status) if status is not None else subtype if subtype and subtype != "success" else "error_result"
    return {"outcome": "error", "error_type": kind, "error_message": str(said)[:_MESSAGE]}
