"""What a model call used: its token counts, checked and made totals, and what is known of its cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from otel_agentbus.events import LlmResponse

from . import names
from .attributes import Attributes, number

#: No model call uses more; a larger count is a mistake that would spoil every sum it enters.
MAX_TOKENS = 10**9
MAX_COST = 10**6


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
    """The event's counts as totals: a part that is larger than its total shows that the total was given without it."""
    given = (
        event.input_tokens,
        event.output_tokens,
        event.cache_read_input_tokens,
        event.cache_write_input_tokens,
        event.reasoning_output_tokens,
    )
    counts = [None if value is None else count(value) for value in given]
    total_in, total_out, cache_read, cache_write, reasoning = counts
    cached = (cache_read or 0) + (cache_write or 0)
    if total_in is not None and cached > total_in:
        total_in += cached
    if total_out is not None and reasoning is not None and reasoning > total_out:
        total_out += reasoning
    invalid = counts.count(None) - given.count(None)
    return Usage(total_in, total_out, cache_read, cache_write, reasoning, invalid)


def cost_of(event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
    """What the call cost in USD, where it is known, and how that is known or why not. Unknown is never 0."""
    if event.cost_usd is not None:
        cost = number(event.cost_usd)
        return (cost, "reported") if cost is not None and 0 <= cost <= MAX_COST else (None, "invalid_usage")
    if usage.invalid:
        return None, "invalid_usage"
    if usage.input is None and usage.output is None:
        return None, "no_usage"
    return None, "no_price_source"


def used_by(event: LlmResponse) -> dict[str, float]:
    """What one call adds to the totals of the runs above it: what is known of its tokens and its cost, and itself."""
    usage = usage_of(event)
    cost, _ = cost_of(event, usage)
    used: dict[str, float] = {"calls": 1}
    if usage.input is not None:
        used["input_tokens"] = usage.input
    if usage.output is not None:
        used["output_tokens"] = usage.output
    if usage.cache_read is not None:
        used["cache_read_input_tokens"] = usage.cache_read
    if usage.cache_write is not None:
        used["cache_write_input_tokens"] = usage.cache_write
    if usage.reasoning is not None:
        used["reasoning_output_tokens"] = usage.reasoning
    if cost is not None:
        used["cost_usd"] = cost
    return used


def usage_totals(totals: Mapping[str, float]) -> Attributes:
    """The totals of a run (sums of what `used_by` says) as attributes of the agent's span, and of no other span."""
    return {attribute: totals[key] for key, attribute in _TOTALS if key in totals}


_TOTALS = (
    ("cache_read_input_tokens", names.RUN_USAGE + "cache_read_input_tokens"),
    ("cache_write_input_tokens", names.RUN_USAGE + "cache_write_input_tokens"),
    ("reasoning_output_tokens", names.RUN_USAGE + "reasoning_output_tokens"),
    ("input_tokens", names.RUN_USAGE + "input_tokens"),
    ("output_tokens", names.RUN_USAGE + "output_tokens"),
    ("cost_usd", names.RUN_USAGE + "cost_usd"),
    ("calls", names.RUN_USAGE + "llm_calls"),
)
