"""What one model call adds to the sums, and what a run's sums say: the words that metrics, spans and tables share."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from otel_agentbus.events import AgentEnd, LlmResponse

from . import names
from .attributes import Attributes, number
from .usage import Usage, count, usage_of

MAX_COST = 10**6
#: Two sums of money that differ by less are the same sum: floats are not exact to the last cent of a cent.
SAME_COST = 1e-9
NOTHING = Usage(None, None, None, None, None)


class Account(NamedTuple):
    """What one telling of a model call adds. Its cost is known, or the status says why not; unknown is never 0."""

    usage: Usage
    cost_usd: float | None
    cost_status: str
    #: What an answer from the application's own cache would have cost.
    saved_usd: float = 0.0
    #: What gave away that the call was told of before; it is not counted again, but may complete what was not known.
    duplicate: str | None = None


class RunAccount(NamedTuple):
    """What a run of this process comes to, when it ends."""

    #: Model calls and tool calls of its own, without those of its sub-agents.
    inference_calls: int
    tool_calls: int
    #: What of the producer's own totals differs from the sums of the calls, sub-agents included.
    mismatch: tuple[str, ...] = ()


def reported(event: LlmResponse) -> tuple[float | None, str] | None:
    """What the provider itself says that the call cost; None where it says nothing."""
    if event.cost_usd is None:
        return None
    cost = _money(event.cost_usd)
    return (cost, "reported") if cost is not None and 0 <= cost <= MAX_COST else (None, "invalid_usage")


def _money(value: object) -> float | None:
    return float(value) if isinstance(value, Decimal) and value.is_finite() else number(value)


def account_of(event: LlmResponse) -> Account:
    """The account that the ledger has made of this event; of an event that no ledger has seen, what it says itself."""
    found: Account | None = getattr(event, "account", None)
    return unpriced(event) if found is None else found


def unpriced(event: LlmResponse) -> Account:
    """What the event says by itself, without a price list."""
    usage = usage_of(event)
    cost, status = reported(event) or (None, known_of(usage) or "no_price_source")
    return Account(usage, cost, status)


def known_of(usage: Usage) -> str | None:
    """Why this usage has no price, whatever the prices are; None where it may have one."""
    if usage.invalid:
        return "invalid_usage"
    return "no_usage" if usage.input is None and usage.output is None else None


def is_completing(event: object) -> bool:
    """Whether a ledger has found that this tells of a call again: what it adds, the first telling did not know."""
    account = getattr(event, "account", None)
    return isinstance(account, Account) and account.duplicate is not None


def lacks_price(event: LlmResponse, account: Account) -> bool:
    """Whether the call is one of those whose cost is unknown. A call that failed before it used anything is none."""
    if account.cost_usd is not None or account.duplicate is not None:
        return False
    return account.cost_status != "no_usage" or event.outcome != "error"


def used_by(account: Account) -> dict[str, float]:
    """What one call adds to the totals of the runs above it: what is known of its tokens and its cost, and itself."""
    usage, cost = account.usage, account.cost_usd
    used: dict[str, float] = {} if account.duplicate else {"calls": 1}
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


def totals_reported(event: AgentEnd) -> dict[str, float]:
    """The totals that the producer of an `AgentEnd` gives itself, as far as they can be true."""
    used = event.tokens_used
    counts = used if isinstance(used, Mapping) else {"tokens": used}
    found: dict[str, float] = {}
    for key, spellings in _TOTAL_SPELLINGS.items():
        tokens = next((total for said in spellings if (total := count(counts.get(said))) is not None), None)
        if tokens is not None:
            found[key] = tokens
    cost = number(event.cost_usd)
    if cost is not None and cost >= 0:
        found["cost_usd"] = cost
    return found


def mismatch(event: AgentEnd, totals: Mapping[str, float]) -> tuple[str, ...]:
    """Which of the producer's totals differ from the sums of the calls; these are compared, and never added."""
    if event.tokens_used is None and event.cost_usd is None:
        return ()
    own = {**totals, "tokens": totals.get("input_tokens", 0) + totals.get("output_tokens", 0)}
    return tuple(
        key for key, given in totals_reported(event).items() if abs(given - own.get(key, 0)) > _tolerance(key, given)
    )


def _tolerance(key: str, given: float) -> float:
    return max(SAME_COST, given * SAME_COST) if key == "cost_usd" else 0


#: How producers call their totals.
_TOTAL_SPELLINGS = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "tokens": ("tokens", "total_tokens"),
}
_TOTALS = (
    ("cache_read_input_tokens", names.RUN_USAGE + "cache_read_input_tokens"),
    ("cache_write_input_tokens", names.RUN_USAGE + "cache_write_input_tokens"),
    ("reasoning_output_tokens", names.RUN_USAGE + "reasoning_output_tokens"),
    ("input_tokens", names.RUN_USAGE + "input_tokens"),
    ("output_tokens", names.RUN_USAGE + "output_tokens"),
    ("cost_usd", names.RUN_USAGE + "cost_usd"),
    ("calls", names.RUN_USAGE + "llm_calls"),
)
