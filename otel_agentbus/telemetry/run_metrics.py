"""The metrics of agent runs and tool calls: how many, how long, how they ended, and how many are going on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from otel_agentbus.events import AgentEnd, AgentStart, Event, ToolCall

from . import instruments, names
from .accounts import RunAccount
from .attributes import text
from .call_metrics import outcome
from .conventions import error_of
from .exemplars import Exemplars
from .measures import Measures, elapsed
from .series import NAME_LENGTH, SETS, Instruments, Labels, Names, Pending, Told
from .tellings import id_of

OPEN_RUNS = 10_000
#: Of how many runs and tool calls that ended it is remembered that they were told of.
ENDED = 16_384

_OUTCOMES = 5


class _Run(NamedTuple):
    """A run that is going on. Its start is not kept: it may carry content."""

    active: Labels
    agent: str | None
    provider: str | None
    model: str | None
    time_ns: int | None


_Key: TypeAlias = tuple[object, ...]


class RunMetrics:
    """Counts the beginnings and ends of runs, and the ends of tool calls."""

    def __init__(
        self,
        made: Instruments,
        measures: Measures,
        exemplars: Exemplars,
        flavour: names.Flavour,
        open_runs: int | None = None,
    ) -> None:
        self._measures = measures
        self._exemplars = exemplars
        agent, error = Names(names.AGENT_NAME), Names(names.ERROR_TYPE, 50, other="_OTHER")
        tool, model = Names(names.TOOL_NAME), Names(names.REQUEST_MODEL)
        self._agents = made.dimensions(agent, limit=SETS // _OUTCOMES)
        self._ended_agents = made.dimensions(agent, model, error)
        self._tools = made.dimensions(tool, agent, limit=SETS // _OUTCOMES)
        self._ended_tools = made.dimensions(tool, agent, error)
        self._agent_duration = [made.histogram(instruments.AGENT_DURATION)]
        self._tool_duration = [made.histogram(instruments.TOOL_DURATION)]
        self._own_calls = None
        if flavour != "1.41":
            self._own_calls = (
                made.histogram(instruments.AGENT_INFERENCE_CALLS),
                made.histogram(instruments.AGENT_TOOL_CALLS),
            )
        self._agent_runs = made.counter(instruments.AGENT_RUNS, names.OUTCOME)
        self._tool_calls = made.counter(instruments.TOOL_CALLS, names.OUTCOME)
        self._mismatches = made.counter(instruments.USAGE_MISMATCH, names.REASON)
        self._active = made.counter(instruments.AGENT_ACTIVE)
        self._runs: Pending[_Key, _Run] = Pending(open_runs or OPEN_RUNS, self._give_up)
        self._over = Told(ENDED)
        self.handlers: dict[type[Event], Callable[[Any], None]] = {
            AgentStart: self._start,
            AgentEnd: self._end,
            ToolCall: self._tool,
        }

    def forget(self) -> None:
        """Start from nothing, in the child of a fork."""
        self._runs.forget()
        self._over.forget()

    def close(self) -> None:
        """Give up the runs that are open: nobody will tell of their end."""
        for run in self._runs.drain():
            self._active.add(run.active, -1)

    def model_of(self, event: Event) -> tuple[str | None, str | None]:
        """The provider and the model of the run in which this happens, as its start says."""
        run = self._runs.look(_run_key(event))
        return (None, None) if run is None else (run.provider, run.model)

    def _start(self, event: AgentStart) -> None:
        key = _run_key(event)
        if _is_told_once(event) and self._over.knows(key):
            return
        labels = self._agents.of(event.agent)
        run = _Run(labels, _name(event.agent), _name(event.model_provider), _name(event.model), event.time_ns)
        if self._runs.put(key, run):
            self._active.add(labels)

    def _give_up(self, run: _Run) -> None:
        self._active.add(run.active, -1)
        self._measures.discard("open_too_long")

    def _end(self, event: AgentEnd) -> None:
        key = _run_key(event)
        if _is_told_once(event) and self._over.again(key):
            return
        run = self._runs.take(key)
        agent, model, duration = _name(event.agent), _name(event.model), event.duration
        if run is not None:
            self._active.add(run.active, -1)
            agent, model = agent or run.agent, model or run.model
            if duration is None:
                duration = elapsed(run.time_ns, event.time_ns)
        agents = self._agents.of(agent)
        self._agent_runs.add(agents, kind=outcome(event.outcome))
        failure = error_of(event)
        context = self._exemplars.of(event)
        if duration is not None:
            labels = self._ended_agents.of(agent, model, failure and failure[0])
            self._measures.seconds(self._agent_duration, duration, labels.attributes, context)
        account: RunAccount | None = getattr(event, "account", None)
        if account is None:
            return
        for differing in account.mismatch:
            self._mismatches.add(agents, kind=differing)
        if self._own_calls is not None:
            for histogram, calls in zip(self._own_calls, account[:2], strict=True):
                histogram.record(calls, agents.attributes, context)

    def _tool(self, event: ToolCall) -> None:
        call_id = id_of(event.tool_call_id)
        if call_id is not None and _is_told_once(event) and self._over.again((*_run_key(event), call_id)):
            return
        self._tool_calls.add(self._tools.of(event.tool, event.agent), kind=outcome(event.outcome))
        failure = error_of(event)
        labels = self._ended_tools.of(event.tool, event.agent, failure and failure[0])
        context = self._exemplars.of(event)
        self._measures.seconds(self._tool_duration, event.duration, labels.attributes, context)


def _is_told_once(event: Event) -> bool:
    """Whether its ids are unique: what no bus has stamped may have any ids."""
    return event.seq is not None and event.invocation_id is not None


def _run_key(event: Event) -> _Key:
    """One run; a producer without ids has, in one source, one run of an agent at a time."""
    invocation = id_of(event.invocation_id)
    if invocation is not None:
        return invocation, event.attempt if isinstance(event.attempt, int) else 1
    return None, id_of(event.source), id_of(event.agent)


def _name(value: object) -> str | None:
    return text(value, NAME_LENGTH)
