"""Budgets at work: each model call counted where it ends, thresholds told once, the next call refused where asked."""

from __future__ import annotations

import copy
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

from .blocks import clock, surrounding
from .budget_check import BudgetCheck, BudgetCheckResult, BudgetState, here, refuse_wrong, state_of
from .budget_file import checked_budgets, load_budgets
from .budget_memory import Nameless, is_free, mark_of, remember
from .errors import BudgetExceeded
from .events import AgentEnd, AgentStart, Event, LlmResponse
from .invocation import Invocation, text
from .metering import SCOPES, Meter, Reached, Scope
from .spending import Budget, Spent, Where, money

_log = logging.getLogger("otel_agentbus.budgets")

#: The name of the event that tells of a threshold.
THRESHOLD_HIT = "budget_threshold_hit"
#: So many calls may wait for a price that is not at hand; beyond it the oldest counts as one without a price.
UNSETTLED = 65_536

#: What a call used; None where its price is not at hand at once.
Account = Callable[[LlmResponse], Spent | None]
#: A threshold with the call that reached it.
Hit = tuple[LlmResponse, Reached]
#: Publishes a domain event.
Publish = Callable[[str, dict[str, Any]], object]


class Budgets:
    """All budgets of one bus: a handler of `LlmResponse`, `AgentStart` and `AgentEnd`, exact under any threads.

    Calls whose price is not at hand wait until `settle()` is called, or a check or a refusal needs them.

    Args:
        budgets: what may be spent; no two of one name. One alone may be given as it is.
        account: what a telling of a call adds, told at once or not at all; `Spent(0, 0.0)` where all was told before.
        publish: how a threshold is told, as `Router.publish`.
        price: as `account`, and may take its time; None only where no price can be had yet. Defaults to `account`.

    Raises:
        ConfigurationError: two budgets have one name, or something there is no budget.

    """

    def __init__(
        self, budgets: Iterable[Budget] | Budget, *, account: Account, publish: Publish, price: Account | None = None
    ) -> None:
        self.budgets = checked_budgets(budgets)
        self._account = account
        self._price = price or account
        self._publish = publish
        self.after_fork()

    def after_fork(self) -> None:
        """Begin with nothing spent and new locks: in a forked child, what was spent before is its parent's."""
        # A finaliser or a signal in the middle of our own work may emit: it must not wait for its own thread, and it
        # must not come into half a change. So work waits in a queue, and whoever is at it already does that, too.
        self._lock = threading.RLock()
        self._settling = threading.RLock()
        self._is_working = self._is_settling = False
        self._work: deque[Callable[[], list[Hit]]] = deque()
        self._unsettled: deque[tuple[LlmResponse, Where]] = deque()
        self._unpriced: OrderedDict[int, tuple[Scope, ...]] = OrderedDict()
        self._guessed: OrderedDict[int, None] = OrderedDict()
        self._nameless = Nameless()
        self._meters = tuple(Meter(budget, SCOPES) for budget in self.budgets)
        self._strict = tuple(meter for meter in self._meters if meter.budget.on_exceeded == "raise")
        self._used = {budget.name: 0.0 for budget in self.budgets}
        self.overflowed = 0

    # -- what was spent ------------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Hear of a call, or of the beginning or the end of a run."""
        if isinstance(event, LlmResponse):
            self._hear(event)
        elif isinstance(event, AgentStart):
            self._begin(event)
        elif isinstance(event, AgentEnd):
            self._end(event)

    def _hear(self, event: LlmResponse) -> None:
        spent = self._judged(self._account, event)
        where = self._where(event)
        if spent is None:
            self._shelve(event, where)
        else:
            self._tell(self._add(event, where, spent))

    def _judged(self, account: Account, event: LlmResponse) -> Spent | None:
        """What this telling adds. A call of which no account could be had is not counted again when told again."""
        if self._guessed and mark_of(event) in self._guessed:
            return Spent(0, 0.0)
        try:
            return account(event)
        except Exception:  # noqa: BLE001 - isolation: a call that cannot be priced is counted as one without a price
            _log.warning("A model call could not be priced", exc_info=True)
            return self._guess(event)

    def _guess(self, event: LlmResponse) -> Spent:
        """The call's tokens as they were told, and no price."""
        mark = mark_of(event)
        if mark is not None:
            with self._lock:
                remember(self._guessed, mark, None)
        counts = (event.input_tokens, event.output_tokens)
        return Spent(sum(count for count in counts if isinstance(count, int) and count > 0), None)

    def _add(self, event: LlmResponse, where: Where, spent: Spent) -> list[Hit]:
        """Add it to all its scopes; gives the thresholds to be told, once the lock is left."""
        return self._do(lambda: self._count(event, where, spent))

    def _count(self, event: LlmResponse, where: Where, spent: Spent) -> list[Hit]:
        usd = money(spent.usd)
        if usd is not None and self._unpriced and (usd or is_free(event)):  # told before without a price, perhaps
            for scope in self._unpriced.pop(mark_of(event) or 0, ()):
                scope.unpriced -= 1
        reached = [(event, hit) for meter in self._meters for hit in meter.add(where, spent.tokens, usd)]
        if usd is None and (mark := mark_of(event)) is not None:
            scopes = (meter.look(where) for meter in self._meters)
            remember(self._unpriced, mark, tuple(scope for scope in scopes if scope is not None))
        return reached

    def _do(self, work: Callable[[], list[Hit]]) -> list[Hit]:
        """Change the meters, one piece of work after the other; gives the thresholds that were reached."""
        reached: list[Hit] = []
        with self._lock:
            self._work.append(work)
            while self._work and not self._is_working:
                self._is_working = True
                try:
                    while self._work:
                        reached += self._work.popleft()()
                finally:
                    self._is_working = False
        return reached

    def _where(self, event: LlmResponse) -> Where:
        return Where(
            text(event.root_invocation_id or self._nameless.root or f"{event.source}:{event.seq}"),
            event.time_ns if isinstance(event.time_ns, int) else clock.time_ns(),
            _said(event.agent),
            _said(event.model),
            _said(event.model_provider),
            _said(event.channel),
            _said(event.conversation_id),
        )

    def _begin(self, event: AgentStart) -> None:
        root = event.root_invocation_id
        if root is None:
            with self._lock:
                over = self._nameless.begin(event)
            self._leave(over)
        elif event.invocation_id == root:
            self._tell(self._do(lambda: self._note(root, over=False)))

    def _end(self, event: AgentEnd) -> None:
        root = event.root_invocation_id
        if root is None:
            with self._lock:
                root = self._nameless.end(event)
        elif event.invocation_id != root:
            return
        self._leave(root)

    def _leave(self, root: str | None) -> None:
        if root is not None:
            self._tell(self._do(lambda: self._note(root, over=True)))

    def _note(self, root: str, *, over: bool) -> list[Hit]:
        """Know that this run is over, or that it goes on."""
        for meter in self._meters:
            if over:
                meter.end(root, clock.time_ns())
            else:
                meter.revive(root)
        return []

    # -- calls whose price is not at hand ------------------------------------------------------------------------------

    def _shelve(self, event: LlmResponse, where: Where) -> None:
        waiting = copy.copy(event)
        waiting.messages = waiting.error_message = None  # content waits nowhere
        self._unsettled.append((waiting, where))
        if len(self._unsettled) > UNSETTLED:
            self.settle()
            self._tell(self._give_up())

    def _give_up(self) -> list[Hit]:
        """Count the call that has waited longest as one whose price is not known, where there is no room any more."""
        with self._settling:
            if self._is_settling or len(self._unsettled) <= UNSETTLED:
                return []
            self.overflowed += 1
            event, where = self._unsettled.popleft()
            return self._add(event, where, self._guess(event))

    def settle(self) -> None:
        """Count the calls that waited for their price, as far as that can be had now."""
        reached: list[Hit] = []
        try:
            while self._unsettled:
                with self._settling:
                    if self._is_settling or not self._work_off(reached):
                        break
        finally:
            self._tell(reached)

    def _work_off(self, reached: list[Hit]) -> bool:
        """Whether all that waited is counted."""
        self._is_settling = True
        try:
            while self._unsettled:
                event, where = self._unsettled[0]
                spent = self._judged(self._price, event)
                if spent is None:
                    return False
                reached += self._add(event, where, spent)
                self._unsettled.popleft()  # only now: who looks meanwhile sees that one is not counted yet, and waits
            return True
        finally:
            self._is_settling = False

    # -- thresholds ----------------------------------------------------------------------------------------------------

    def _tell(self, reached: list[Hit]) -> None:
        for event, hit in reached:
            scope, limit = hit.scope, hit.limit
            data = {
                "budget": scope.meter.budget.name,
                "scope": scope.told(),
                "threshold": hit.threshold,
                "unit": limit.unit,
                "spent": hit.spent,
                "limit": limit.amount,
                "unpriced_calls": hit.unpriced_calls,
            }
            try:
                self._publish_in(event, data)
            except Exception:  # noqa: BLE001 - isolation: who hears of one threshold must not cost the others
                _log.warning("A threshold of the budget %r could not be told", data["budget"], exc_info=True)

    def _publish_in(self, event: LlmResponse, data: dict[str, Any]) -> None:
        """Publish it as part of the run that spent it, whoever finds out."""
        frame = surrounding()
        if event.invocation_id is None or (frame is not None and frame.invocation.id == event.invocation_id):
            self._publish(THRESHOLD_HIT, data)
            return
        run = Invocation(
            event.invocation_id,
            event.parent_invocation_id,
            event.root_invocation_id or event.invocation_id,
            event.agent,
            attempt=event.attempt,
            conversation_id=event.conversation_id,
            channel=event.channel,
            trace=event.trace,
            tracestate=event.tracestate,
        )
        run.run(self._publish, THRESHOLD_HIT, data)

    # -- before it is spent --------------------------------------------------------------------------------------------

    @property
    def gate(self) -> Callable[[Any], None] | None:
        """Asked by a model or tool call before it begins; None where no budget is to raise."""
        return self._refuse if self._strict else None

    def _refuse(self, block: Any) -> None:
        """Raise `BudgetExceeded` where a budget is used up in a scope in which this call would run."""
        if self._unsettled:
            self.settle()
        run = block.invocation
        where = Where(
            run.root_id,
            clock.time_ns(),
            run.agent,
            text(block.model or "") if block.kind == "llm" else None,
            text(block.provider or "") if block.kind == "llm" else None,
            run.channel,
            run.conversation_id,
        )
        for meter in self._strict:
            scope = meter.look(where) if meter.applies(where) else None
            if scope is not None:
                for limit in meter.limits:
                    if scope.is_over(limit):
                        name, spent = meter.budget.name, scope.spent(limit)
                        raise BudgetExceeded(name, scope.told(), limit.unit, spent, limit.amount)

    def check(
        self,
        *,
        usd: float = 0.0,
        tokens: int = 0,
        agent: str | None = None,
        model: str | None = None,
        provider: str | None = None,
        channel: str | None = None,
        conversation_id: str | None = None,
        root_invocation_id: str | None = None,
        now_ns: int | None = None,
    ) -> BudgetCheckResult:
        """Whether so much more may be spent: every budget that binds it has something left, and at least that much.

        What is left out is taken from the run that is current here. A budget by model or provider binds only where
        that is known.

        Raises:
            ValueError: an amount is negative, or no number.

        """
        refuse_wrong(usd, tokens)
        self.settle()
        unsettled = len(self._unsettled)
        now = here()
        where = Where(
            root_invocation_id or now.root,
            now.time_ns if now_ns is None else now_ns,
            agent or now.agent,
            model or now.model,
            provider or now.provider,
            channel or now.channel,
            conversation_id or now.conversation,
        )
        with self._lock:
            scopes = [meter.look(where) or meter.new(where) for meter in self._meters if meter.applies(where)]
            states = tuple(state_of(scope, limit, unsettled) for scope in scopes for limit in scope.meter.limits)
            allowed = all(scope.has_room(limit, usd, tokens) for scope in scopes for limit in scope.meter.limits)
        return BudgetCheckResult(allowed, states)

    def answer(self, check: BudgetCheck) -> BudgetCheckResult:
        """The answer to a request, for `router.answer(BudgetCheck)`."""
        return self.check(**{name: getattr(check, name) for name in BudgetCheck.__slots__})

    # -- how it is -----------------------------------------------------------------------------------------------------

    def used(self) -> dict[str, float]:
        """The share of each budget that is used, in the scope in use now, or just before, where it is highest."""
        self._tell(self._do(self._look))
        return dict(self._used)

    def _look(self) -> list[Hit]:
        now_ns = clock.time_ns()
        self._used = {meter.budget.name: meter.used(now_ns) for meter in self._meters}
        return []

    def health(self) -> dict[str, int]:
        """How many scopes there are, how many were forgotten while in use, how many calls wait for their price."""
        return {
            "scopes": sum(meter.size for meter in self._meters),
            "dropped_scopes": sum(meter.dropped for meter in self._meters),
            "unsettled": len(self._unsettled),
            "overflowed": self.overflowed,
        }


def _said(value: object) -> str | None:
    return value if value is None or value.__class__ is str else text(value)


__all__ = [
    "Budget",
    "BudgetCheck",
    "BudgetCheckResult",
    "BudgetExceeded",
    "BudgetState",
    "Budgets",
    "Spent",
    "checked_budgets",
    "load_budgets",
]
