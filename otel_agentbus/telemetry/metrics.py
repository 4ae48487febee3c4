"""From events to metrics: a plain callable that counts what agents did, used and cost, under names of bounded number.

Each event is counted once, where it was emitted, whatever the sampler says of its spans. No id, path or free text is
ever an attribute, and what cannot be a count or a duration is not recorded but counted as discarded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from opentelemetry.metrics import Histogram, MeterProvider

from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    RecoveryCompleted,
    ToolCall,
)

from . import instruments, names
from .attributes import number, text
from .conventions import Conventions, error_of, provider_name
from .instruments import Metric
from .names import Flavour
from .series import OTHER, SETS, Labels, Ledger, Names, Pending, ledger_of
from .usage import Usage, cost_of, count, usage_of
from .vitals import Health

#: No call and no run lasts longer; a larger number is in another unit.
MAX_SECONDS = 366 * 86_400.0
OPEN_RUNS = 10_000
OPEN_DEPLOYMENTS = 1_000

_TOKEN_TYPES = ("input", "output", "cache_read", "cache_write", "reasoning")
#: The most kinds that a counter of ours tells apart under the same names.
_KINDS = 5
_OUTCOMES = frozenset(("ok", "error", "cancelled", "interrupted"))

_log = logging.getLogger(__name__)


class _Run(NamedTuple):
    """A run that is going on."""

    active: Labels
    event: AgentStart


class MetricsBridge:
    """Counts events on the instruments of a meter provider; thread-safe, and never raises.

    It may be subscribed to a router as any handler, or be fed by the pump. `health` gives the numbers of the pipeline
    itself, which are observed whenever metrics are collected.
    """

    def __init__(
        self, meter_provider: MeterProvider, *, conventions: Flavour = "1.41", health: Health | None = None
    ) -> None:
        flavour = Conventions(conventions).flavour
        self._old = flavour != "2026-10"
        self._new = flavour != "1.41"
        self._ledger = ledger = ledger_of(meter_provider)
        self._discarded = ledger.counter(instruments.DISCARDED, names.REASON)
        self._none = ledger.dimensions().of()
        self._runs: Pending[tuple[object, ...], _Run] = Pending(OPEN_RUNS, self._give_up)
        self._operations: Pending[tuple[object, ...], str] = Pending(OPEN_RUNS)
        self._deployments: Pending[str, int] = Pending(OPEN_DEPLOYMENTS)
        self._outages: Pending[str, int] = Pending(OPEN_DEPLOYMENTS)
        self._failed = False
        self._handlers: dict[type[Event], Callable[[Any], None]] = {}
        self._open_llm(ledger)
        self._open_runs(ledger)
        self._open_moments(ledger)
        self._open_deployments(ledger)
        self._health = health
        if health is not None:
            ledger.vitals.watch(health)

    @property
    def overflowed(self) -> int:
        """How many measurements had names beyond the bounds and were counted under `other`."""
        return self._ledger.overflowed

    def __call__(self, event: Event) -> None:
        """Count one event."""
        handler = self._handlers.get(event.__class__)
        if handler is None:
            return
        try:
            handler(event)
        except Exception:  # noqa: BLE001 - a measurement that fails must not reach the agent nor stop the pump
            self._discard("failure")
            if not self._failed:
                self._failed = True
                _log.warning("An event could not be counted; further failures are only counted", exc_info=True)

    def close(self) -> None:
        """Give up the runs that are open: nobody will tell of their end. What was counted stays."""
        if self._health is not None:
            self._ledger.vitals.leave(self._health)
        for run in self._runs.drain():
            self._active.add(run.active, -1)

    def forget(self) -> None:
        """Start from nothing, in the child of a fork: what the parent counted, the parent exports."""
        for waiting in (self._runs, self._operations, self._deployments, self._outages):
            waiting.forget()
        self._ledger.forget()

    # -- model calls ----------------------------------------------------------------------------------------------
    def _open_llm(self, ledger: Ledger) -> None:
        provider = Names(names.PROVIDER, clean=provider_name)
        model, response_model = Names(names.REQUEST_MODEL), Names(names.RESPONSE_MODEL)
        operation, agent, error = Names(names.OPERATION, 32), Names(names.AGENT_NAME), _errors()
        token_type = Names(names.TOKEN_TYPE, len(_TOKEN_TYPES))
        modality = Names(names.TOKEN_MODALITY, 8)
        self._calls = ledger.dimensions(operation, provider, model, response_model, error)
        self._served = ledger.dimensions(operation, provider, model, response_model)
        self._typed = ledger.dimensions(operation, provider, model, response_model, token_type)
        self._modal = ledger.dimensions(operation, provider, model, response_model, modality)
        self._spenders = ledger.dimensions(provider, model, agent, limit=SETS // _KINDS)
        if self._old:
            self._token_usage = ledger.histogram(instruments.TOKEN_USAGE)
        if self._new:
            self._inference_tokens = {
                kind: ledger.histogram(each) for kind, each in instruments.INFERENCE_TOKENS.items()
            }
            self._inference_usage = {kind: ledger.counter(each) for kind, each in instruments.INFERENCE_USAGE.items()}
        self._durations = self._by_operation(ledger, instruments.OPERATION_DURATION, instruments.INFERENCE_DURATION)
        self._first_chunks = self._by_operation(
            ledger, instruments.OPERATION_FIRST_CHUNK, instruments.INFERENCE_FIRST_CHUNK
        )
        self._llm_calls = ledger.counter(instruments.LLM_CALLS, names.OUTCOME)
        self._tokens_used = ledger.counter(instruments.TOKENS_USED, names.TOKEN_TYPE)
        self._cost_spent = ledger.counter(instruments.COST_SPENT, names.COST_SOURCE)
        self._unpriced = ledger.counter(instruments.UNPRICED_CALLS, names.REASON)
        self._handlers |= {LlmRequest: self._llm_request, LlmResponse: self._llm_response}

    def _by_operation(self, ledger: Ledger, old: Metric, new: Metric) -> dict[bool, list[Histogram]]:
        """The histograms of calls that are inferences, and of those that are not, which no flavour renames."""
        older = ledger.histogram(old)
        inference = [older] if self._old else []
        return {True: [*inference, ledger.histogram(new)] if self._new else inference, False: [older]}

    def _llm_request(self, event: LlmRequest) -> None:
        """Responses do not say of which operation they are; nearly all are chats, so only the others are remembered."""
        key = (event.invocation_id, event.call_id)
        if event.call_id is None and len(self._operations):
            self._operations.take(key)
        if event.operation != "chat":
            self._operations.put(key, text(event.operation) or "chat")

    def _llm_response(self, event: LlmResponse) -> None:
        operation = "chat"
        if len(self._operations):
            operation = self._operations.take((event.invocation_id, event.call_id)) or operation
        usage = usage_of(event)
        base = (operation, event.model_provider, event.model, event.response_model)
        inference = operation in names.INFERENCE
        failure = error_of(event)
        self._seconds(
            self._durations[inference], event.duration, self._calls.of(*base, failure and failure[0]).attributes
        )
        if event.time_to_first_chunk is not None:
            self._seconds(self._first_chunks[inference], event.time_to_first_chunk, self._served.of(*base).attributes)
        if usage.invalid:
            self._discard("invalid", usage.invalid)
        self._tokens(base, usage, inference=inference)
        self._spend(event, usage)

    def _tokens(self, base: tuple[object, ...], usage: Usage, *, inference: bool) -> None:
        totals = (("input", usage.input), ("output", usage.output))
        if self._old:
            for kind, tokens in totals:
                if tokens is not None:
                    self._token_usage.record(tokens, self._typed.of(*base, kind).attributes)
        if self._new and inference:
            served, modal = self._served.of(*base).attributes, self._modal.of(*base, "unknown")
            for kind, tokens in totals:
                if tokens is not None:
                    self._inference_tokens[kind].record(tokens, served)
            for kind, tally in self._inference_usage.items():  # 0 where there is no usage, as the conventions want it
                tally.add(modal, getattr(usage, kind) or 0)

    def _spend(self, event: LlmResponse, usage: Usage) -> None:
        spender = self._spenders.of(event.model_provider, event.model, event.agent)
        self._llm_calls.add(spender, kind=_outcome(event.outcome))
        for kind, tokens in zip(_TOKEN_TYPES, usage, strict=False):
            if tokens:
                self._tokens_used.add(spender, tokens, kind)
        cost, status = cost_of(event, usage)
        if cost is None:
            self._unpriced.add(spender, kind=status)
        else:
            self._cost_spent.add(spender, cost, status)

    # -- agents and tools -----------------------------------------------------------------------------------------
    def _open_runs(self, ledger: Ledger) -> None:
        agent, error = Names(names.AGENT_NAME), _errors()
        tool, model = Names(names.TOOL_NAME), Names(names.REQUEST_MODEL)
        self._agents = ledger.dimensions(agent, limit=SETS // _KINDS)
        self._ended_agents = ledger.dimensions(agent, model, error)
        self._tools = ledger.dimensions(tool, agent, limit=SETS // _KINDS)
        self._ended_tools = ledger.dimensions(tool, agent, error)
        self._agent_duration = [ledger.histogram(instruments.AGENT_DURATION)]
        self._tool_duration = [ledger.histogram(instruments.TOOL_DURATION)]
        self._agent_runs = ledger.counter(instruments.AGENT_RUNS, names.OUTCOME)
        self._tool_calls = ledger.counter(instruments.TOOL_CALLS, names.OUTCOME)
        self._active = ledger.counter(instruments.AGENT_ACTIVE, falls=True)
        self._handlers |= {AgentStart: self._agent_start, AgentEnd: self._agent_end, ToolCall: self._tool_call}

    def _agent_start(self, event: AgentStart) -> None:
        labels = self._agents.of(event.agent)
        if self._runs.put(_run_key(event), _Run(labels, event)):
            self._active.add(labels)

    def _give_up(self, run: _Run) -> None:
        self._active.add(run.active, -1)
        self._discard("open_too_long")

    def _agent_end(self, event: AgentEnd) -> None:
        run = self._runs.take(_run_key(event))
        agent, model, duration = event.agent, event.model, event.duration
        if run is not None:
            self._active.add(run.active, -1)
            agent, model = agent or run.event.agent, model or run.event.model
            if duration is None:
                duration = _elapsed(run.event.time_ns, event.time_ns)
        self._agent_runs.add(self._agents.of(agent), kind=_outcome(event.outcome))
        failure = error_of(event)
        labels = self._ended_agents.of(agent, model, failure and failure[0])
        if duration is not None:
            self._seconds(self._agent_duration, duration, labels.attributes)

    def _tool_call(self, event: ToolCall) -> None:
        self._tool_calls.add(self._tools.of(event.tool, event.agent), kind=_outcome(event.outcome))
        failure = error_of(event)
        labels = self._ended_tools.of(event.tool, event.agent, failure and failure[0])
        self._seconds(self._tool_duration, event.duration, labels.attributes)

    # -- what happens at one moment -------------------------------------------------------------------------------
    def _open_moments(self, ledger: Ledger) -> None:
        self._caches = ledger.dimensions(Names(names.CACHE_TYPE, 32))
        self._components = ledger.dimensions(Names(names.COMPONENT))
        self._channels = ledger.dimensions(Names(names.CHANNEL), Names(names.DIRECTION, 16))
        self._hits = ledger.counter(instruments.CACHE_HITS)
        self._misses = ledger.counter(instruments.CACHE_MISSES)
        self._saved = ledger.counter(instruments.CACHE_SAVED)
        self._errors = ledger.counter(instruments.ERRORS)
        self._messages = ledger.counter(instruments.CHANNEL_MESSAGES)
        self._heartbeats = ledger.counter(instruments.HEARTBEATS)
        self._handlers |= {
            CacheHit: self._cache_hit,
            CacheMiss: lambda event: self._misses.add(self._caches.of(event.cache_type)),
            Error: lambda event: self._errors.add(self._components.of(event.component)),
            ChannelMessage: lambda event: self._messages.add(self._channels.of(event.channel, event.direction)),
            HeartbeatTick: lambda event: self._heartbeats.add(self._none),
        }

    def _cache_hit(self, event: CacheHit) -> None:
        labels = self._caches.of(event.cache_type)
        self._hits.add(labels)
        saved = count(event.tokens_saved)
        if saved is None:
            self._discard("invalid")
        else:
            self._saved.add(labels, saved)

    # -- deployments ----------------------------------------------------------------------------------------------
    def _open_deployments(self, ledger: Ledger) -> None:
        self._statuses = ledger.dimensions(Names(names.DEPLOYMENT_STATUS, 2))
        self._ended_deployments = ledger.counter(instruments.DEPLOYMENTS)
        self._deployment_duration = [ledger.histogram(instruments.DEPLOYMENT_DURATION)]
        self._recovery_time = [ledger.histogram(instruments.RECOVERY_TIME)]
        self._handlers |= {
            DeploymentStarted: lambda event: _begin(self._deployments, event.deploy_id, event.time_ns),
            DeploymentCompleted: lambda event: self._deployed(event, "succeeded"),
            DeploymentFailed: self._deployment_failed,
            RecoveryCompleted: self._recovered,
        }

    def _deployed(self, event: DeploymentCompleted | DeploymentFailed, status: str) -> None:
        labels = self._statuses.of(status)
        self._ended_deployments.add(labels)
        took = _elapsed(self._deployments.take(event.deploy_id), event.time_ns)
        if took is not None:
            self._seconds(self._deployment_duration, took, labels.attributes)

    def _deployment_failed(self, event: DeploymentFailed) -> None:
        self._deployed(event, "failed")
        _begin(self._outages, event.deploy_id, event.time_ns)

    def _recovered(self, event: RecoveryCompleted) -> None:
        took = _elapsed(self._outages.take(event.deploy_id), event.time_ns)
        if took is not None:
            self._seconds(self._recovery_time, took, {})

    # -- measuring ------------------------------------------------------------------------------------------------
    def _seconds(self, histograms: list[Histogram], value: object, attributes: Mapping[str, str]) -> None:
        seconds = number(value)
        if seconds is None or not 0 <= seconds <= MAX_SECONDS:
            self._discard("invalid")
            return
        for histogram in histograms:
            histogram.record(seconds, attributes)

    def _discard(self, reason: str, measurements: int = 1) -> None:
        self._discarded.add(self._none, measurements, reason)


def _errors() -> Names:
    return Names(names.ERROR_TYPE, 50, other="_OTHER")


def _outcome(outcome: object) -> str:
    return outcome if isinstance(outcome, str) and outcome in _OUTCOMES else OTHER


def _run_key(event: AgentStart | AgentEnd) -> tuple[object, ...]:
    """One run; a producer without ids has, in one source, one run of an agent at a time."""
    if event.invocation_id is not None:
        return event.invocation_id, event.attempt
    return None, event.source, event.agent


def _elapsed(start_ns: int | None, end_ns: int | None) -> float | None:
    """The seconds between two times; None where one is not known, or the clock was set back."""
    if start_ns is None or end_ns is None or end_ns < start_ns:
        return None
    return (end_ns - start_ns) / 1e9


def _begin(waiting: Pending[str, int], key: str, time_ns: int | None) -> None:
    waiting.take(key)  # what begins again begins now
    if time_ns is not None:
        waiting.put(key, time_ns)
