"""Where money meets the bus: one price list, the ledgers, the budgets and the summary.

The pump enters every event before anything is made of it, so that spans, metrics and tables say the same. Budgets
cannot wait for the pump: they count a call where it ends, and refuse the next one where it begins. So they have a
ledger of their own; what ends before the price list is loaded waits for it, and is counted by the pump.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from .budgets import Budget, BudgetCheck, Budgets, Spent, load_budgets
from .events import AgentEnd, AgentStart, CacheHit, Event, LlmRequest, LlmResponse
from .router import Router
from .settings import Settings
from .telemetry.accounts import Account, unpriced
from .telemetry.ledger import Ledger
from .telemetry.pricing import Charge, PriceBook
from .telemetry.summary import Summary
from .telemetry.usage import Usage

#: What needs the price list.
_PRICED = frozenset((LlmRequest, LlmResponse))


class Accounting:
    """The accounts of one bus.

    Args:
        settings: where the user's prices and budgets are.
        budgets: instead of those of the settings.

    Raises:
        ConfigurationError: a file of prices or budgets is wrong.

    """

    def __init__(self, settings: Settings, budgets: Iterable[Budget] | None = None) -> None:
        if budgets is None:
            budgets = load_budgets(settings.budgets) if settings.budgets else ()
        self._router: Router | None = None
        self.prices = PriceBook(settings.prices)
        self.summary = Summary()
        self.ledger = Ledger(self.prices)
        self._spending = Ledger(_AtHand(self.prices))
        self.budgets = Budgets(budgets, account=self._spent, publish=self._publish)
        listed = self.budgets.budgets
        self._count_money = any(budget.usd is not None for budget in listed)
        if self._count_money and any(budget.on_exceeded == "raise" for budget in listed):
            self.prices.load()  # while wiring: the first call is to be refused as exactly as the last

    def _publish(self, name: str, data: dict[str, Any]) -> None:
        if self._router is not None:
            self._router.publish(name, data)

    def listen(self, router: Router, *, observed: bool, pumped: bool) -> None:
        """Count what is spent where it is told, answer who asks, and load the prices in the background, if for anybody.

        Now, and not with the first call: a list that must be compiled first stops the whole process for a fifth of a
        second, which an agent at work would feel. Where no pump runs, what waited for it is counted right then.
        """
        self._router = router
        router.answer(BudgetCheck)(self.budgets.answer)
        if self.budgets.budgets:
            router.subscribe(self._spending.judge, LlmRequest, CacheHit, priority=-999_999)
            router.subscribe(self.budgets, LlmResponse, AgentStart, AgentEnd, priority=-999_999)
        if self._count_money and not pumped:
            threading.Thread(target=self._load, name="otel-agentbus-budgets", daemon=True).start()
        elif observed or self._count_money:
            self.prices.load_in_background()

    def _load(self) -> None:
        self.prices.load()
        self.budgets.settle()

    def enter(self, event: Event) -> Event:
        """Give the event its account; in the background, where the first model call waits for the price list."""
        if event.__class__ in _PRICED and not self.prices.ready:
            self.prices.load()
        event = self.ledger.enter(event)
        self.summary(event)
        self.budgets.settle()
        return event

    def print_summary(self, dropped: int) -> None:
        """Say on standard error what was used, and how the budgets stand; nothing where nothing has happened.

        Events that were dropped were never counted: how many these are is said, too.
        """
        from .telemetry.summary_table import print_summary  # it is made with rich, for those who want to see it

        print_summary(self.summary.read(), budgets=self.budgets.used(), dropped=dropped)

    def quote(self, event: LlmResponse) -> Account:
        """What the call costs by itself, as far as that can be said at once; it is entered nowhere."""
        account = unpriced(event)
        if event.cost_usd is None and self.prices.ready:
            cost, status = self.prices.charge(event, account.usage)
            return account._replace(cost_usd=cost, cost_status=status)
        return account

    def after_fork(self, *, pumped: bool) -> None:
        """In the child: nothing of what the parent has spent."""
        self.prices.after_fork()
        self.ledger.forget()
        self._spending.forget()
        self.budgets.after_fork()
        self.summary.forget()
        if self._count_money and not pumped and not self.prices.ready:
            threading.Thread(target=self._load, name="otel-agentbus-budgets", daemon=True).start()

    def _spent(self, event: LlmResponse) -> Spent | None:
        """What the call used; None while the price list is not loaded. A model's first price takes a third of a ms."""
        if self._count_money and not self.prices.ready and event.cost_usd is None:
            return None
        account: Account = self._spending.judge(event)
        usage = account.usage
        cost = 0.0 if account.duplicate and account.cost_usd is None else account.cost_usd
        return Spent((usage.input or 0) + (usage.output or 0), cost)


class _AtHand:
    """The price list, without its work ahead: what waits for an answer must not cost the one who asks."""

    def __init__(self, prices: PriceBook) -> None:
        self._prices = prices

    def charge(self, event: LlmResponse, usage: Usage) -> Charge:
        """What the call costs by list."""
        return self._prices.charge(event, usage)

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        """Left to the background, which sees the request, too."""
