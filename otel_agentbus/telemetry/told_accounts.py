"""Accounts that another process has made, as its records tell them: what a relay counts, and prices no more."""

from __future__ import annotations

from typing import Any

from otel_agentbus.events import AgentEnd, CacheHit, Event, LlmResponse

from .accounts import Account, RunAccount
from .attributes import number
from .usage import Usage


def account_told(event: Event, said: list[Any]) -> Account | RunAccount | float | None:
    """The account of this event that a record has as a list; None where it is none, or is of no such event."""
    try:
        if isinstance(event, LlmResponse):
            return _call(*said)
        if isinstance(event, AgentEnd):
            inference_calls, tool_calls, differing = said
            return RunAccount(int(inference_calls), int(tool_calls), tuple(map(str, differing)))
        if isinstance(event, CacheHit):
            (saved,) = said
            return number(saved)
    except (TypeError, ValueError):
        pass
    return None


def _call(used: list[int | None], cost: float | None, status: str, saved: float, duplicate: str | None) -> Account:
    whole, out, cache_read, cache_write, reasoning, invalid = (None if n is None else int(n) for n in used)
    usage = Usage(whole, out, cache_read, cache_write, reasoning, invalid or 0)
    return Account(usage, None if cost is None else float(cost), str(status), float(saved), duplicate)
