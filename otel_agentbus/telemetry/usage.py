"""What a model call used: its token counts, checked and made totals, and what is known of its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

from otel_agentbus.events import LlmResponse

#: No model call uses more; a larger count is a mistake that would spoil every sum it enters.
MAX_TOKENS = 10**9


class Usage(NamedTuple):
    """Token counts of one call, in which `input` and `output` are totals and the rest are parts of them."""

    input: int | None
    output: int | None
    cache_read: int | None
    cache_write: int | None
    reasoning: int | None
    #: How many counts were given that cannot be counts.
    invalid: int = 0


def count(value: object) -> int | None:
    """A count of tokens, if it can be one."""
    if value.__class__ is int:
        return value if 0 <= value <= MAX_TOKENS else None
    return int(value) if isinstance(value, int) and value.__class__ is not bool and 0 <= value <= MAX_TOKENS else None


def usage_of(event: LlmResponse) -> Usage:
    """The event's counts as totals: a part that is larger than its total shows that the total was given without it.

    What the event's own fields leave open is read from the provider's raw counts in `event.usage`, if it has them.
    """
    given: tuple[object, ...] = (
        event.input_tokens,
        event.output_tokens,
        event.cache_read_input_tokens,
        event.cache_write_input_tokens,
        event.reasoning_output_tokens,
    )
    if event.usage:
        given = _completed(given, event.usage)
    counts = [None if value is None else count(value) for value in given]
    total_in, total_out, cache_read, cache_write, reasoning = counts
    cached = (cache_read or 0) + (cache_write or 0)
    if total_in is not None and cached > total_in:
        total_in += cached
    if total_out is not None and reasoning is not None and reasoning > total_out:
        total_out += reasoning
    invalid = counts.count(None) - given.count(None)
    return Usage(total_in, total_out, cache_read, cache_write, reasoning, invalid)


# -- raw counts -------------------------------------------------------------------------------------------------------
#: How many entries of a raw usage are looked at, and how deep they may be nested.
RAW_ROOM: Final = 64
_RAW_DEPTH: Final = 3
#: What holds the counts where somebody has told a whole answer.
_WRAPPERS: Final = frozenset(("usage", "usage_metadata", "usageMetadata"))

#: Totals that include what they are made of, the first that is there. Last Cohere's, Ollama's and Vercel's.
_INPUT: Final = (
    *("prompt_tokens", "promptTokenCount", "prompt_token_count", "input_tokens", "request_tokens"),
    *("billed_units.input_tokens", "tokens.input_tokens", "prompt_eval_count", "promptTokens", "inputTokens.total"),
)
_OUTPUT: Final = (
    *("completion_tokens", "output_tokens", "outputTokens", "response_tokens"),
    *("billed_units.output_tokens", "tokens.output_tokens", "eval_count", "completionTokens", "outputTokens.total"),
)
_CACHE_READ: Final = (
    *("cache_read_input_tokens", "cacheReadInputTokens", "cache_read_tokens"),
    *("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens", "input_token_details.cached_tokens"),
    *("input_token_details.cache_read", "input_token_details.flex_cache_read"),
    *("input_token_details.priority_cache_read", "inputTokenDetails.cacheReadTokens", "inputTokens.cacheRead"),
    *("cachedContentTokenCount", "cached_content_token_count", "prompt_cache_hit_tokens", "cached_tokens"),
)
_CACHE_WRITE: Final = (
    *("cache_creation_input_tokens", "cacheWriteInputTokens", "cache_write_input_tokens", "cache_write_tokens"),
    *("prompt_tokens_details.cache_write_tokens", "input_tokens_details.cache_write_tokens"),
    *("input_token_details.cache_creation", "input_token_details.flex_cache_creation"),
    *("input_token_details.priority_cache_creation", "inputTokenDetails.cacheWriteTokens", "inputTokens.cacheWrite"),
)
_CACHE_WRITES: Final = (
    (
        *("cache_creation.ephemeral_5m_input_tokens", "ephemeral_5m_input_tokens", "cache_write_5m_tokens"),
        *("cache_write_5m_input_tokens", "cache_creation_5m_input_tokens"),
        "input_token_details.ephemeral_5m_input_tokens",
    ),
    (
        *("cache_creation.ephemeral_1h_input_tokens", "ephemeral_1h_input_tokens", "cache_write_1h_tokens"),
        *("cache_write_1h_input_tokens", "cache_creation_1h_input_tokens"),
        "input_token_details.ephemeral_1h_input_tokens",
    ),
)
_REASONING: Final = (
    *("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens"),
    *("output_tokens_details.thinking_tokens", "reasoning_output_tokens", "reasoning_tokens"),
    *("thoughtsTokenCount", "thoughts_token_count", "output_reasoning_tokens"),
    *("output_token_details.reasoning", "output_token_details.flex_reasoning"),
    *("output_token_details.priority_reasoning", "outputTokenDetails.reasoningTokens", "outputTokens.reasoning"),
    *("details.reasoning_tokens", "details.thoughts_tokens"),
)
#: Whoever says one of these counts like Anthropic: its input tokens are those that are neither read nor written.
_EXCLUSIVE: Final = ("cache_creation_input_tokens", "cache_read_input_tokens")
#: Whoever says one of these includes in its `inputTokens` what is cached.
_INCLUSIVE: Final = tuple(
    f"inputTokenDetails.{key}" for key in ("noCacheTokens", "cacheReadTokens", "cacheWriteTokens")
)
#: Cohere's bill, which leaves out some of its tokens, even of those that are cached.
_BILLED: Final = "billed_units.input_tokens"
#: Gemini's answer is counted in two parts, and so is its question.
_ANSWER: Final = ("candidatesTokenCount", "candidates_token_count")
_THOUGHTS: Final = ("thoughtsTokenCount", "thoughts_token_count")
_TOOL_USE: Final = ("toolUsePromptTokenCount", "tool_use_prompt_token_count")


def flat(given: object) -> Iterator[tuple[str, object]]:
    """The entries of a usage, or of the usage in an answer, nested ones under their joined names; only as many as a
    usage may have, and whole numbers as such.
    """
    return islice(_flat(given, "", _RAW_DEPTH), RAW_ROOM)


def _flat(given: object, prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    if not isinstance(given, Mapping):
        return
    for key, value in given.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            if depth:
                inner = prefix if not prefix and key in _WRAPPERS else f"{prefix}{key}."
                yield from _flat(value, inner, depth - 1)
        elif isinstance(key, str):  # Cohere counts in floats
            yield prefix + key, int(value) if type(value) is float and value.is_integer() else value


def _completed(given: tuple[object, ...], usage: object) -> tuple[object, ...]:
    """The five counts of the event, those that are unset as the raw usage says them."""
    said = {key: value for key, value in flat(usage) if value is not None}
    total_in, total_out, cache_read, cache_write, reasoning = given
    if cache_read is None:
        cache_read = _raw_read(said, total_in)
    if cache_write is None:
        cache_write = _raw_write(said)
    if reasoning is None:
        reasoning = _first(said, _REASONING)
    if total_in is None:
        total_in = _raw_input(said, cache_read, cache_write)
    if total_out is None:
        total_out = _first(said, _OUTPUT)
        if total_out is None:
            total_out = _sum([_first(said, _ANSWER), _first(said, _THOUGHTS)])
    return total_in, total_out, cache_read, cache_write, reasoning


def _raw_read(said: Mapping[str, object], total_in: object) -> object:
    if total_in is None and _BILLED in said:
        return None
    return _first(said, _CACHE_READ)


def _raw_write(said: Mapping[str, object]) -> object:
    """What was written, which LangChain says to be 0 where it also says for how long the cache keeps it."""
    written = _first(said, _CACHE_WRITE)
    if written is None or (written.__class__ is int and not written):
        split = _sum([_first(said, spellings) for spellings in _CACHE_WRITES])
        return written if split is None else split
    return written


def _raw_input(said: Mapping[str, object], cache_read: object, cache_write: object) -> object:
    beside = said.get("inputTokens")  # Bedrock's, without what is cached
    if beside is not None and any(key in said for key in _INCLUSIVE):
        return beside
    if beside is None and any(key in said for key in _EXCLUSIVE):
        beside = said.get("input_tokens")
    if beside is not None:
        return _sum([beside, cache_read, cache_write])
    return _sum([_first(said, _INPUT), _first(said, _TOOL_USE)])


def _first(said: Mapping[str, object], spellings: tuple[str, ...]) -> object:
    for key in spellings:
        if key in said:
            return said[key]
    return None


def _sum(parts: list[object]) -> object:
    """The sum of what is there; what is no count stays as it is, so that it is counted as invalid."""
    known = [part for part in parts if part is not None]
    counted = [number for part in known if (number := count(part)) is not None]
    if len(counted) < len(known):
        return next(part for part in known if count(part) is None)
    return sum(counted) if known else None
