"""What the tests of budgets share: a bus that is a router and nothing else, and prices that are what the event says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from otel_agentbus.blocks import install
from otel_agentbus.budgets import Account, Budget, Budgets, Spent
from otel_agentbus.events import AgentEnd, AgentStart, DomainEvent, Event, LlmResponse
from otel_agentbus.invocation import Frame
from otel_agentbus.router import Router
from otel_agentbus.runtime import Tracing
from otel_agentbus.stamping import Stamp
from otel_agentbus.telemetry.ledger import Ledger

#: Midnight of 14 November 2023, UTC.
MIDNIGHT = 1_699_920_000_000_000_000
DAY = 86_400_000_000_000

_numbers = itertools.count()


def told(event: LlmResponse) -> Spent | None:
    """What the event itself says."""
    return Spent((event.input_tokens or 0) + (event.output_tokens or 0), event.cost_usd)


def booked() -> Account:
    """What a new ledger says: each call once, however often it is told, at the price that the event says."""
    ledger = Ledger()

    def account(event: LlmResponse) -> Spent:
        made = ledger.judge(event)
        cost = 0.0 if made.duplicate and made.cost_usd is None else made.cost_usd
        return Spent((made.usage.input or 0) + (made.usage.output or 0), cost)

    return account


def call(
    usd: float | None = None,
    tokens: int = 0,
    *,
    root: str | None = "r",
    run: str | None = None,
    id: str | None = None,
    time_ns: int = MIDNIGHT,
    model: str = "m",
    provider: str = "p",
    **fields: Any,
) -> LlmResponse:
    """The end of one model call."""
    return LlmResponse(
        model_provider=provider,
        model=model,
        duration=0.1,
        success=True,
        cost_usd=usd,
        input_tokens=tokens,
        call_id=id or f"c{next(_numbers)}",
        root_invocation_id=root,
        invocation_id=run or root,
        time_ns=time_ns,
        **fields,
    )


class Told:
    """Budgets by themselves, with all that they publish."""

    def __init__(self, *budgets: Budget, account: Account | None = None, price: Account | None = None) -> None:
        account = account or booked()
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.budgets = Budgets(
            budgets, account=account, price=price, publish=lambda name, data: self.published.append((name, data))
        )

    def __call__(self, *events: Event) -> Told:
        for event in events:
            self.budgets(event)
        return self

    @property
    def hits(self) -> list[tuple[Any, ...]]:
        """Budget, scope, threshold and what was spent, one for each threshold that was told."""
        assert {name for name, _ in self.published} <= {"budget_threshold_hit"}
        return [
            (data["budget"], *data["scope"].values(), data["threshold"], data["spent"]) for _, data in self.published
        ]


class SmallBus:
    """A runtime for blocks: stamps and routes, with budgets and without telemetry."""

    def __init__(self, *budgets: Budget, account: Account = told, price: Account | None = None) -> None:
        self.router = Router()
        self._stamp = Stamp()
        self.source = self._stamp.source
        self.tracing: Tracing | None = None
        self.events: list[Event] = []
        self.budgets = Budgets(budgets, account=account, price=price, publish=self.publish)
        self.gate: Callable[[Any], None] | None = self.budgets.gate
        self.router.subscribe(self.events.append)
        self.router.subscribe(self.budgets, LlmResponse, AgentStart, AgentEnd, priority=-1_000)

    def ambient(self) -> Frame | None:
        return None

    def emit(self, event: Event) -> None:
        self._stamp(event)
        self.router.emit(event)

    def publish(self, name: str, data: dict[str, Any]) -> None:
        self.emit(DomainEvent(name=name, data=data))

    @property
    def hits(self) -> list[DomainEvent]:
        return [event for event in self.events if isinstance(event, DomainEvent)]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@contextmanager
def small_bus(*budgets: Budget, **options: Any) -> Iterator[SmallBus]:
    """The bus of the blocks inside."""
    bus = SmallBus(*budgets, **options)
    before = install(bus)
    try:
        yield bus
    finally:
        install(before)
        bus.router.close()
