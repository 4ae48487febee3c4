"""Further counts of a call, from the spellings that providers and frameworks use to the units that lists price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Final

from otel_agentbus.telemetry.usage import MAX_TOKENS, Usage, count, flat

from .rates import CACHE_READ, CACHE_WRITE, INPUT, OUTPUT, REASONING, Count

_MODALITIES: Final = ("text", "audio", "image", "video")


def _spellings() -> dict[str, str]:
    found: dict[str, str] = {}
    for kind in _MODALITIES:
        for unit, forms in _OF_MODALITY.items():
            key = unit.format(kind)
            found |= dict.fromkeys((key, *(form.format(kind) for form in forms)), key)
    for key, forms in _OTHERS.items():
        found |= dict.fromkeys((key, *forms), key)
    return found


_OF_MODALITY: Final[Mapping[str, tuple[str, ...]]] = {
    "input_{}_tokens": (
        *("{}.input_tokens", "{}_input_tokens", "input_{}"),
        *("prompt_tokens_details.{}_tokens", "input_tokens_details.{}_tokens", "input_token_details.{}_tokens"),
        *("prompt_{}_tokens", "input_token_details.{}"),
    ),
    "output_{}_tokens": (
        *("{}.output_tokens", "{}_output_tokens", "output_{}"),
        *("completion_tokens_details.{}_tokens", "output_tokens_details.{}_tokens", "output_token_details.{}_tokens"),
        *("completion_{}_tokens", "output_token_details.{}"),
    ),
    "cache_{}_read_tokens": (
        *("{}.cache_read.input_tokens", "{}_cache_read_input_tokens", "{}_cache_read_tokens"),
        *("input_token_details.cached_tokens_details.{}_tokens", "cached_tokens_details.{}_tokens"),
        *("prompt_tokens_details.cached_tokens_details.{}_tokens", "cached_{}_tokens"),
    ),
    "cache_{}_write_tokens": ("{}_cache_write_input_tokens", "{}_cache_write_tokens"),
}

_OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "cache_write_5m_tokens": (
        *("cache_creation.ephemeral_5m_input_tokens", "ephemeral_5m_input_tokens", "cache_write_5m_input_tokens"),
        *("cache_creation_5m_input_tokens", "input_token_details.ephemeral_5m_input_tokens"),
    ),
    "cache_write_1h_tokens": (
        *("cache_creation.ephemeral_1h_input_tokens", "ephemeral_1h_input_tokens", "cache_write_1h_input_tokens"),
        *("cache_creation_1h_input_tokens", "input_token_details.ephemeral_1h_input_tokens"),
    ),
    "input_tool_tokens": ("toolUsePromptTokenCount", "tool_use_prompt_token_count", "tool_use_prompt_tokens"),
    "output_citation_tokens": ("citation_tokens",),
    "web_searches": (
        *("server_tool_use.web_search_requests", "web_search_requests", "num_search_queries", "web_search_calls"),
        "web_search",
    ),
    "storage_searches": ("file_search_calls", "file_searches"),
    "social_searches": (),
    "code_executions": ("server_tool_use.code_execution_requests", "code_execution_requests"),
    "rerank_searches": ("billed_units.search_units", "search_units"),
    "input_characters": ("characters",),
    "input_text_messages": (),
    "input_pixels": (),
    "input_document_pages": ("pages_processed", "document_pages"),
    "input_annotated_document_pages": ("annotated_document_pages",),
    "audio_seconds": ("seconds", "prompt_audio_seconds"),
    "input_audio_seconds": (),
    "output_audio_seconds": (),
}

#: Every spelling, and the unit that it counts.
UNIT_OF: Final[Mapping[str, str]] = _spellings()
#: What may be a fraction.
_SECONDS: Final = frozenset(("audio_seconds", "input_audio_seconds", "output_audio_seconds"))


def further(given: Mapping[str, object]) -> dict[str, Count] | None:
    """The further counts that a price may be for; None if one of them cannot be a count."""
    found: dict[str, Count] = {}
    for key, value in flat(given):
        unit = UNIT_OF.get(key)
        if unit is None or value is None:
            continue
        counted = _seconds(value) if unit in _SECONDS else count(value)
        if counted is None:
            return None
        found.setdefault(unit, counted)
    return found


def _seconds(value: object) -> Count | None:
    if isinstance(value, float) and math.isfinite(value) and 0 <= value <= MAX_TOKENS:
        return Fraction(Decimal(repr(float(value))))
    return count(value)


def together(usage: Usage, others: Mapping[str, Count]) -> dict[str, Count]:
    """All counts of a call by their units; what is not known is left out."""
    plain = {
        INPUT: usage.input,
        OUTPUT: usage.output,
        CACHE_READ: usage.cache_read,
        CACHE_WRITE: usage.cache_write,
        REASONING: usage.reasoning,
    }
    return {key: value for key, value in plain.items() if value is not None} | dict(others)


__all__ = ["UNIT_OF", "further", "together"]
