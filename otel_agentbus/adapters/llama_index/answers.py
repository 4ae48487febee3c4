"""What a model's answer says of itself: usage, finish reasons and ids, as providers hide them in `response.raw`.

LlamaIndex has no field for any of it. Integrations put the provider's own answer there, as an object or as a mapping;
of a stream, one chunk after the other. The counts that providers agree on become totals here; the others are handed on
under the provider's names, nested ones joined by dots, and the ledger knows what each of them includes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from .mapping import attribute, said

_DEPTH: Final = 2
_ROOM: Final = 64
_HOLDERS: Final = ("usage", "usage_metadata", "usageMetadata")
#: Where a usage may lie one step deeper: Anthropic's first chunk, Cohere's and others' answers.
_AROUND: Final = ("message", "response", "meta", "metadata")
#: Counts that stand beside the answer itself (Ollama), or that integrations have taken out of it.
_BESIDE: Final = (
    *("prompt_eval_count", "eval_count", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"),
    *("cache_creation_input_tokens", "cache_read_input_tokens"),
)
#: Totals as they are, the first that is there.
_INPUT: Final = ("prompt_tokens", "prompt_token_count", "promptTokenCount", "prompt_eval_count")
_OUTPUT: Final = ("completion_tokens", "output_tokens", "outputTokens", "eval_count")
_CACHE_READ: Final = (
    *("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens", "cached_content_token_count"),
    *("cachedContentTokenCount", "cache_read_input_tokens", "cacheReadInputTokens", "prompt_cache_hit_tokens"),
)
_CACHE_WRITE: Final = ("cache_creation_input_tokens", "cacheWriteInputTokens")
_REASONING: Final = (
    *("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens"),
    *("thoughts_token_count", "thoughtsTokenCount"),
)
#: Who counts one of these leaves out of the input what was cached (Anthropic, and Bedrock in its own spelling).
_BESIDE_INPUT: Final = frozenset((*_CACHE_WRITE, "cache_read_input_tokens", "cacheReadInputTokens"))
#: Gemini's answer is counted in two parts, and so is its question.
_ANSWER: Final = ("candidates_token_count", "candidatesTokenCount")
_TOOL_USE: Final = ("tool_use_prompt_token_count", "toolUsePromptTokenCount")
#: Sums of what is known anyway.
_SUMS: Final = ("total_tokens", "total_token_count", "totalTokenCount", "totalTokens")
_REASONS: Final = ("finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason")
_MODELS: Final = ("model", "model_version", "modelVersion")
_IDS: Final = ("id", "response_id", "responseId")


class Answer:
    """One answer, whole or chunk by chunk; of what is said several times, the last and of counts the largest."""

    __slots__ = ("_usage", "cost", "fields", "last", "reasons")

    def __init__(self) -> None:
        self.last: Any = None
        self.fields: dict[str, Any] = {}
        self.reasons: list[str] = []
        self.cost: float | None = None
        self._usage: dict[str, int] = {}

    def hear(self, response: Any) -> None:
        """One more chunk, or the whole answer."""
        self.last = response
        raw = getattr(response, "raw", None)
        message = getattr(response, "message", None)
        for holder in (raw, attribute(response, "additional_kwargs"), attribute(message, "additional_kwargs")):
            if holder is not None and self._count(holder):
                break
        if raw is not None:
            self._describe(raw)

    def told(self) -> dict[str, Any]:
        """The fields of the end event."""
        fields: dict[str, Any] = dict(self.fields)
        fields.update(_totals(self._usage))
        if self.reasons:
            fields["finish_reasons"] = list(self.reasons)
        if self.cost is not None:
            fields["cost_usd"] = self.cost
        return fields

    def messages(self) -> list[dict[str, Any]] | None:
        """What was answered, in the parts schema."""
        last = self.last
        if last is None:
            return None
        message = getattr(last, "message", None)
        if message is not None:
            return [said(message)]
        return [{"role": "assistant", "parts": [{"type": "text", "content": last.text}]}]

    # -- counts -------------------------------------------------------------------------------------------------------

    def _count(self, raw: Any) -> bool:
        found = _usage_in(raw)
        if found is None:
            for name in _AROUND:
                inner = attribute(raw, name)
                if inner is not None and not isinstance(inner, str):
                    found = _usage_in(inner)
                    if found is not None:
                        break
        if found is None:
            return self._count_beside(raw)
        cost = attribute(found, "cost")
        if isinstance(cost, (int, float)) and not isinstance(cost, bool):
            self.cost = float(cost)
        return self._add(_counts(found))

    def _count_beside(self, holder: Any) -> bool:
        return self._add((name, value) for name in _BESIDE if _is_count(value := attribute(holder, name)))

    def _add(self, counts: Iterator[tuple[str, int]]) -> bool:
        usage = self._usage
        any_found = False
        for name, value in counts:
            any_found = True
            usage[name] = max(value, usage.get(name, 0))
        return any_found

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _describe(self, raw: Any) -> None:
        fields = self.fields
        for told, names in (("response_model", _MODELS), ("response_id", _IDS), ("service_tier", ("service_tier",))):
            for name in names:
                value = attribute(raw, name)
                if isinstance(value, str) and value:
                    fields[told] = value
                    break
        reasons = [reason for choice in _choices(raw) if (reason := _reason(choice)) is not None]
        if reasons:
            self.reasons = reasons


def _totals(said: Mapping[str, int]) -> dict[str, Any]:
    """The fields of the end event: totals that include what was cached or reasoned, and all that is left."""
    rest = {name: value for name, value in said.items() if name not in _SUMS}
    is_beside = any(name in rest for name in _BESIDE_INPUT)
    read, write = _take(rest, _CACHE_READ), _take(rest, _CACHE_WRITE)
    reasoning = _take(rest, _REASONING)
    asked = _plus(_take(rest, _INPUT), _take(rest, _TOOL_USE))
    if asked is None:
        asked = _take(rest, ("input_tokens", "inputTokens"))
        if asked is not None and is_beside:
            asked += (read or 0) + (write or 0)
    answered = _take(rest, _OUTPUT)
    if answered is None:
        answered = _take(rest, _ANSWER)
        answered = None if answered is None else answered + (reasoning or 0)
    found = {
        "input_tokens": asked,
        "output_tokens": answered,
        "cache_read_input_tokens": read,
        "cache_write_input_tokens": write,
        "reasoning_output_tokens": reasoning,
        "usage": rest or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _take(rest: dict[str, int], names: tuple[str, ...]) -> int | None:
    """The first of these that is there; it and its other spellings are told by it."""
    found = [value for name in names if (value := rest.pop(name, None)) is not None]
    return found[0] if found else None


def _plus(count: int | None, more: int | None) -> int | None:
    return count if more is None or count is None else count + more


def _usage_in(raw: Any) -> Any:
    for name in _HOLDERS:
        found = attribute(raw, name)
        if found is not None and not isinstance(found, (str, int, float)):
            return found
    return None


def _choices(raw: Any) -> list[Any]:
    for name in ("choices", "candidates"):
        found = attribute(raw, name)
        if isinstance(found, list):
            return found
    return [raw, delta] if (delta := attribute(raw, "delta")) is not None else [raw]


def _reason(choice: Any) -> str | None:
    for name in _REASONS:
        value = attribute(choice, name)
        value = getattr(value, "name", value)  # Google's are enumerations
        if isinstance(value, str) and value:
            return value
    return None


def _counts(usage: Any) -> Iterator[tuple[str, int]]:
    return islice(_flat(usage, "", _DEPTH), _ROOM)


def _flat(usage: Any, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    entries = usage if isinstance(usage, Mapping) else getattr(usage, "__dict__", None)
    for name, value in entries.items() if isinstance(entries, Mapping) else ():
        if not isinstance(name, str) or name.startswith("_"):
            continue
        if _is_count(value) and not name.startswith("cost"):
            yield prefix + name, int(value)
        elif depth and value is not None and not isinstance(value, (str, float, list, bool)):
            yield from _flat(value, f"{prefix}{name}.", depth - 1)


def _is_count(value: Any) -> bool:
    """Whether this may count tokens: a whole number, which Cohere writes as a float."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


__all__ = ["Answer"]
