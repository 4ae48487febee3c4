"""What a call used: the event's own counts, and what the provider's raw counts say where they leave something open."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_agentbus.events import LlmResponse
from otel_agentbus.telemetry.usage import MAX_TOKENS, RAW_ROOM, Usage, usage_of


def used(usage: Any = None, **counts: Any) -> Usage:
    return usage_of(LlmResponse(model_provider="p", model="m", duration=0.0, success=True, usage=usage, **counts))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # Anthropic: what is cached stands beside the input
        (
            {
                "input_tokens": 5,
                "cache_creation_input_tokens": 4_735,
                "cache_read_input_tokens": 100,
                "output_tokens": 9,
            },
            Usage(4_840, 9, 100, 4_735, None),
        ),
        ({"input_tokens": 5, "cache_read_input_tokens": 0, "output_tokens": 9}, Usage(5, 9, 0, None, None)),
        (
            {"input_tokens": 5, "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 12}},
            Usage(47, None, None, 42, None),
        ),
        # OpenAI, both APIs: it is part of the input
        (
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 70,
                "prompt_tokens_details": {"cached_tokens": 900, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 50},
            },
            Usage(1_000, 70, 900, None, 50),
        ),
        (
            {
                "input_tokens": 1_000,
                "output_tokens": 70,
                "input_tokens_details.cached_tokens": 900,
                "output_tokens_details.reasoning_tokens": 50,
            },
            Usage(1_000, 70, 900, None, 50),
        ),
        ({"input_tokens": 1_000, "output_tokens": 70}, Usage(1_000, 70, None, None, None)),
        # DeepSeek
        (
            {"prompt_tokens": 100, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40},
            Usage(100, None, 60, None, None),
        ),
        # Bedrock: beside the input
        (
            {"inputTokens": 10, "cacheReadInputTokens": 2_000, "cacheWriteInputTokens": 500, "outputTokens": 4},
            Usage(2_510, 4, 2_000, 500, None),
        ),
        ({"inputTokens": 10, "outputTokens": 4, "totalTokens": 14}, Usage(10, 4, None, None, None)),
        # Gemini, of the wire and of its SDK: the thoughts stand beside the answer
        (
            {
                "promptTokenCount": 100,
                "toolUsePromptTokenCount": 7,
                "cachedContentTokenCount": 60,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 20,
            },
            Usage(107, 25, 60, None, 20),
        ),
        (
            {"prompt_token_count": 100, "candidates_token_count": 5, "thoughts_token_count": None},
            Usage(100, 5, None, None, None),
        ),
        # LangChain, whatever the provider: all of it is part of the input
        (
            {
                "input_tokens": 1_000,
                "output_tokens": 10,
                "total_tokens": 1_010,
                "input_token_details": {"cache_read": 900, "cache_creation": 0},
                "output_token_details": {"reasoning": 5},
            },
            Usage(1_000, 10, 900, 0, 5),
        ),
        (  # of Anthropic, where it moves what was written to the time for which it is kept
            {
                "input_tokens": 1_000,
                "output_tokens": 10,
                "input_token_details": {
                    "cache_read": 500,
                    "cache_creation": 0,
                    "ephemeral_5m_input_tokens": 300,
                    "ephemeral_1h_input_tokens": 100,
                },
            },
            Usage(1_000, 10, 500, 400, None),
        ),
        (  # of OpenAI in a service tier
            {
                "input_tokens": 1_000,
                "output_tokens": 10,
                "input_token_details": {"flex_cache_read": 900, "flex": 100},
                "output_token_details": {"flex_reasoning": 5, "flex": 5},
            },
            Usage(1_000, 10, 900, None, 5),
        ),
        # pydantic-ai, now and before
        (
            {
                "input_tokens": 1_000,
                "cache_write_tokens": 50,
                "cache_write_1h_tokens": 20,
                "cache_read_tokens": 900,
                "output_tokens": 10,
                "output_reasoning_tokens": 5,
                "input_audio_tokens": 3,
                "details": {"input_tokens": 7},
            },
            Usage(1_000, 10, 900, 50, 5),
        ),
        (
            {"request_tokens": 1_000, "response_tokens": 10, "details": {"reasoning_tokens": 5}},
            Usage(1_000, 10, None, None, 5),
        ),
        # Vercel's SDK: 4, 6, and what its providers tell it; in 5 nobody knows what its input includes
        ({"promptTokens": 100, "completionTokens": 10, "totalTokens": 110}, Usage(100, 10, None, None, None)),
        (
            {
                "inputTokens": 1_000,
                "inputTokenDetails": {"noCacheTokens": 40, "cacheReadTokens": 900, "cacheWriteTokens": 60},
                "outputTokens": 10,
                "outputTokenDetails": {"textTokens": 5, "reasoningTokens": 5},
                "cachedInputTokens": 900,
                "reasoningTokens": 5,
            },
            Usage(1_000, 10, 900, 60, 5),
        ),
        (
            {
                "inputTokens": {"total": 1_000, "noCache": 40, "cacheRead": 900, "cacheWrite": 60},
                "outputTokens": {"total": 10, "text": 5, "reasoning": 5},
            },
            Usage(1_000, 10, 900, 60, 5),
        ),
        # Ollama
        (
            {"prompt_eval_count": 26, "eval_count": 259, "eval_duration": 4_709_213_000},
            Usage(26, 259, None, None, None),
        ),
        # Cohere, in floats: what it bills, which has nothing to do with its cache, or else what it has used
        (
            {
                "billed_units": {"input_tokens": 15.0, "output_tokens": 10.0},
                "tokens": {"input_tokens": 215.0, "output_tokens": 12.0},
                "cached_tokens": 128.0,
            },
            Usage(15, 10, None, None, None),
        ),
        (
            {"tokens": {"input_tokens": 215.0, "output_tokens": 12.0}, "cached_tokens": 128.0},
            Usage(215, 12, 128, None, None),
        ),
        # a whole answer, as LlamaIndex keeps it
        (
            {
                "id": "x",
                "choices": [{"index": 0}],
                "usage": {
                    "prompt_tokens": 1_000,
                    "completion_tokens": 70,
                    "prompt_tokens_details": {"cached_tokens": 900},
                },
            },
            Usage(1_000, 70, 900, None, None),
        ),
        (
            {"usage_metadata": {"prompt_token_count": 100, "candidates_token_count": 5}},
            Usage(100, 5, None, None, None),
        ),
        # nothing that says anything
        ({}, Usage(None, None, None, None, None)),
        ({"web_searches": 3, "something": {"else": 4}}, Usage(None, None, None, None, None)),
        ({"prompt_tokens": None}, Usage(None, None, None, None, None)),
    ],
)
def test_raw_counts_become_totals(raw: dict[str, Any], expected: Usage) -> None:
    assert used(raw) == expected


def test_the_events_own_counts_win() -> None:
    raw = {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 3, "reasoning_tokens": 4}
    own = {"input_tokens": 50, "output_tokens": 60, "cache_read_input_tokens": 7, "cache_write_input_tokens": 8}
    assert used(raw, **own, reasoning_output_tokens=9) == Usage(50, 60, 7, 8, 9)


def test_parts_are_read_from_the_raw_counts_even_where_the_totals_are_given() -> None:
    raw = {"prompt_tokens": 1_000, "prompt_tokens_details": {"cached_tokens": 900}}
    assert used(raw, input_tokens=1_000, output_tokens=5) == Usage(1_000, 5, 900, None, None)


def test_a_total_that_was_given_without_its_cached_parts_is_completed_by_the_raw_ones() -> None:
    raw = {"cache_read_input_tokens": 4_735}
    assert used(raw, input_tokens=5, output_tokens=5) == Usage(4_740, 5, 4_735, None, None)


@pytest.mark.parametrize("count", [-1, True, MAX_TOKENS + 1, "12", 1.5, float("nan"), []])
def test_a_raw_count_that_cannot_be_one_is_invalid(count: object) -> None:
    assert used({"prompt_tokens": count, "completion_tokens": 4}) == Usage(None, 4, None, None, None, 1)
    exclusive = used({"input_tokens": 5, "cache_read_input_tokens": count})
    assert (exclusive.input, exclusive.invalid > 0) == (None, True)


def test_a_sum_of_raw_counts_that_is_too_large_is_invalid() -> None:
    assert used({"input_tokens": MAX_TOKENS, "cache_read_input_tokens": 1}) == Usage(None, None, 1, None, None, 1)


def test_a_part_that_was_not_written_stays_so() -> None:
    raw = {"cache_creation_input_tokens": 0, "cache_creation": {"ephemeral_5m_input_tokens": 0}}
    assert used({"input_tokens": 5, **raw}) == Usage(5, None, None, 0, None)


@pytest.mark.parametrize("raw", [[1], "x", 7, {"a": {"b": {"c": {"d": {"e": 1}}}}}, {1: 2}, {("t",): {"x": 1}}])
def test_a_usage_of_any_shape_does_no_harm(raw: object) -> None:
    assert used(raw, input_tokens=1, output_tokens=2) == Usage(1, 2, None, None, None)


def test_a_usage_that_contains_itself_or_never_ends_is_cut() -> None:
    endless: dict[str, Any] = {f"key {number}": number for number in range(10 * RAW_ROOM)}
    endless["self"] = endless
    assert used(endless, input_tokens=1, output_tokens=2) == Usage(1, 2, None, None, None)


@given(
    st.dictionaries(
        st.sampled_from(
            (
                *("input_tokens", "prompt_tokens", "inputTokens", "cache_read_input_tokens", "cached_tokens"),
                *("cache_creation_input_tokens", "output_tokens", "reasoning_tokens", "thoughtsTokenCount", "other"),
                *("input_token_details.cache_read", "input_token_details.ephemeral_5m_input_tokens", "eval_count"),
                *("billed_units.input_tokens", "cached_tokens", "inputTokenDetails.cacheReadTokens"),
            )
        ),
        st.integers(-5, MAX_TOKENS) | st.booleans() | st.none() | st.text(max_size=2),
    ),
    *(st.none() | st.integers(0, 10**6) for _ in range(2)),
)
def test_parts_always_fit_into_totals(raw: dict[str, Any], total_in: int | None, total_out: int | None) -> None:
    usage = used(raw, input_tokens=total_in, output_tokens=total_out)
    if usage.input is not None:
        assert (usage.cache_read or 0) + (usage.cache_write or 0) <= usage.input
    if usage.output is not None:
        assert (usage.reasoning or 0) <= usage.output
