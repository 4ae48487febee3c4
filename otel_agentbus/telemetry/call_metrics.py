"""The metrics of model calls: durations, tokens and money, each call once, as its account says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

from otel_agentbus.events import CacheHit, Event, LlmRequest, LlmResponse

from . import instruments, names
from .accounts import Account, account_of, lacks_price
from .attributes import text
from .conventions import error_of, provider_name
from .exemplars import Exemplars
from .instruments import Metric
from .measures import Measures
from .series import NAME_LENGTH, OTHER, SETS, Instruments, Names, Pending
from .tellings import id_of
from .usage import Usage

#: The operations of how many open calls that are no chats are remembered.
OPEN_CALLS = 10_000

_TOKEN_TYPES = ("input", "output", "cache_read", "cache_write", "reasoning")
#: The most kinds that a counter of ours tells apart under the same names: the statuses of a cost.
_KINDS = 6
_OUTCOMES = frozenset(("ok", "error", "cancelled", "interrupted"))


class CallMetrics:
    """Counts requests and responses."""

    def __init__(self, made: Instruments, measures: Measures, exemplars: Exemplars, flavour: names.Flavour) -> None:
        self._measures = measures
        self._exemplars = exemplars
        self._old = flavour != "2026-10"
        self._new = flavour != "1.41"
        self._operations: Pending[tuple[object, ...], str] = Pending(OPEN_CALLS)
        self._name_sets(made)
        self._token_usage = made.histogram(instruments.TOKEN_USAGE) if self._old else None
        self._inference_tokens: dict[str, Histogram] = {}
        self._inference_usage = {}
        if self._new:
            for kind, metric in instruments.INFERENCE_TOKENS.items():
                self._inference_tokens[kind] = made.histogram(metric)
            for kind, metric in instruments.INFERENCE_USAGE.items():
                self._inference_usage[kind] = made.counter(metric)
        self._durations = self._by_operation(made, instruments.OPERATION_DURATION, instruments.INFERENCE_DURATION)
        self._first_chunks = self._by_operation(
            made, instruments.OPERATION_FIRST_CHUNK, instruments.INFERENCE_FIRST_CHUNK
        )
        self._llm_calls = made.counter(instruments.LLM_CALLS, names.OUTCOME)
        self._tokens_used = made.counter(instruments.TOKENS_USED, names.TOKEN_TYPE)
        self._cost_spent = made.counter(instruments.COST_SPENT, names.COST_SOURCE)
        self._cost_saved = made.counter(instruments.COST_SAVED)
        self._unpriced = made.counter(instruments.UNPRICED_CALLS, names.REASON)
        self._duplicates = made.counter(instruments.CALLS_DUPLICATE, names.REASON)
        self._none = made.dimensions().of()
        self.handlers: dict[type[Event], Callable[[Any], None]] = {
            LlmRequest: self._request,
            LlmResponse: self._response,
        }

    def _name_sets(self, made: Instruments) -> None:
        provider = Names(names.PROVIDER, clean=provider_name)
        model, response_model = Names(names.REQUEST_MODEL), Names(names.RESPONSE_MODEL)
        operation, agent = Names(names.OPERATION, 32), Names(names.AGENT_NAME)
        call = (operation, provider, model, response_model)
        self._calls = made.dimensions(*call, Names(names.ERROR_TYPE, 50, other="_OTHER"))
        self._served = made.dimensions(*call)
        self._typed = made.dimensions(*call, Names(names.TOKEN_TYPE, len(_TOKEN_TYPES)))
        self._modal = made.dimensions(*call, Names(names.TOKEN_MODALITY, 8))
        self._spenders = made.dimensions(provider, model, agent, limit=SETS // _KINDS)

    def _by_operation(self, made: Instruments, old: Metric, new: Metric) -> dict[bool, list[Histogram]]:
        """The histograms of calls that are inferences, and of those that are not, which no flavour renames."""
        older = made.histogram(old)
        inference = [older] if self._old else []
        return {True: [*inference, made.histogram(new)] if self._new else inference, False: [older]}

    def forget(self) -> None:
        """Start from nothing, in the child of a fork."""
        self._operations.forget()

    def _request(self, event: LlmRequest) -> None:
        """Responses do not say of which operation they are; nearly all are chats, so only the others are remembered."""
        if event.call_id is None and len(self._operations):
            self._operations.take(_call_key(event))
        operation = text(event.operation, NAME_LENGTH) or "chat"
        if operation != "chat":
            self._operations.put(_call_key(event), operation)

    def _response(self, event: LlmResponse) -> None:
        operation = "chat"
        if len(self._operations):
            operation = self._operations.take(_call_key(event)) or operation
        account = account_of(event)
        self._spend(event, account)  # first what is money: nothing that follows can cost it
        base = (operation, event.model_provider, event.model, event.response_model)
        inference = operation in names.INFERENCE
        context = self._exemplars.of(event)
        if account.duplicate is None:
            self._time(event, base, inference=inference, context=context)
        if account.usage.invalid:
            self._measures.discard("invalid", account.usage.invalid)
        self._tokens(base, account, inference=inference, context=context)

    def _time(self, event: LlmResponse, base: tuple[object, ...], *, inference: bool, context: Context) -> None:
        failure = error_of(event)
        labels = self._calls.of(*base, failure and failure[0])
        self._measures.seconds(self._durations[inference], event.duration, labels.attributes, context)
        if event.time_to_first_chunk is not None:
            served = self._served.of(*base).attributes
            self._measures.seconds(self._first_chunks[inference], event.time_to_first_chunk, served, context)

    def _tokens(self, base: tuple[object, ...], account: Account, *, inference: bool, context: Context) -> None:
        usage = account.usage
        totals = (("input", usage.input), ("output", usage.output))
        if self._token_usage is not None:
            for kind, tokens in totals:
                if tokens is not None:
                    self._token_usage.record(tokens, self._typed.of(*base, kind).attributes, context)
        if self._new and inference:
            self._new_tokens(base, totals, usage, self._served.of(*base).attributes, context)

    def _new_tokens(
        self,
        base: tuple[object, ...],
        totals: tuple[tuple[str, int | None], ...],
        usage: Usage,
        served: Mapping[str, str],
        context: Context,
    ) -> None:
        modal = self._modal.of(*base, "unknown")
        for kind, tokens in totals:
            if tokens is not None:
                self._inference_tokens[kind].record(tokens, served, context)
        for kind, tally in self._inference_usage.items():  # 0 where there is no usage, as the conventions want it
            tally.add(modal, getattr(usage, kind) or 0)

    def _spend(self, event: LlmResponse, account: Account) -> None:
        spender = self._spenders.of(event.model_provider, event.model, event.agent)
        if account.duplicate is None:
            self._llm_calls.add(spender, kind=outcome(event.outcome))
        else:
            self._duplicates.add(self._none, kind=account.duplicate)
        for kind, tokens in zip(_TOKEN_TYPES, account.usage, strict=False):
            if tokens:
                self._tokens_used.add(spender, tokens, kind)
        if account.cost_usd is not None:
            self._cost_spent.add(spender, account.cost_usd, account.cost_status)
        elif lacks_price(event, account):
            self._unpriced.add(spender, kind=account.cost_status)
        if account.saved_usd:
            self._cost_saved.add(spender, account.saved_usd)

    def saved(self, event: CacheHit, spender: tuple[object, object]) -> None:
        """Count what an answer that came before any call was made would have cost, by its run's provider and model."""
        usd: float | None = getattr(event, "account", None)
        if usd:
            self._cost_saved.add(self._spenders.of(*spender, event.agent), usd)


def _call_key(event: LlmRequest | LlmResponse) -> tuple[object, ...]:
    return id_of(event.invocation_id), id_of(event.call_id)


def outcome(given: object) -> str:
    """The outcome as a metric may show it."""
    return given if isinstance(given, str) and given in _OUTCOMES else OTHER
