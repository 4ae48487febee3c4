"""The errors that this package raises: while wiring, and where a program has asked for them.

AgentBusError
├── ConfigurationError     a setting is missing, wrong or contradictory       (connect, Settings)
├── UnsupportedFramework   no adapter of that name, or not for that version   (instrument)
├── UnreadableEvent        bytes that are not an event of ours                (contract.read)
├── BudgetExceeded         a budget is used up that was to stop the agent     (Budget(on_exceeded="raise"))
└── NoAnswer               nobody answers this kind of request                (Router.ask)
"""

from __future__ import annotations

from typing import Any


class AgentBusError(Exception):
    """The root of every error that this package raises on purpose."""


class ConfigurationError(AgentBusError, ValueError):
    """A setting is missing, wrong or contradictory; the sentence says which, its value and the remedy."""


class UnsupportedFramework(AgentBusError, LookupError):
    """There is no adapter for this framework, or not for the version that is installed."""


class UnreadableEvent(AgentBusError, ValueError):
    """These bytes are not an event that the contract can read."""


class BudgetExceeded(AgentBusError):
    """A model or tool call was refused, because a budget with `on_exceeded="raise"` is used up where it would run.

    `budget` is its name; `scope` tells which run or window (and which agent, say); `spent` and `limit` are in `unit`,
    which is "usd" or "tokens".
    """

    def __init__(self, budget: str, scope: dict[str, Any], unit: str, spent: float, limit: float) -> None:
        super().__init__(budget, scope, unit, spent, limit)  # the arguments: so it goes through a pickle, too
        self.budget = budget
        self.scope = scope
        self.unit = unit
        self.spent = spent
        self.limit = limit

    def __str__(self) -> str:
        unit = "USD" if self.unit == "usd" else self.unit
        where = ", ".join(f"{key} {value}" for key, value in self.scope.items())
        return f"The budget {self.budget!r} is used up: {self.spent:.12g} of {self.limit:.12g} {unit} spent ({where})."


class NoAnswer(AgentBusError, LookupError):
    """A request was asked, and nobody has said that they answer its kind."""
