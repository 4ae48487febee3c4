"""What the runs of this process come to: the sums of their calls, those of their sub-agents included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from otel_agentbus.events import AgentEnd, AgentStart, Event, ToolCall

from .accounts import Account, RunAccount, mismatch, used_by
from .recent import Recent
from .tellings import Place, id_of, place_of

#: How many runs and tool calls are remembered.
RUNS: Final = 16_384
TOOLS: Final = 8_192
#: How far upwards a run's callers are followed.
DEPTH: Final = 64

#: The root of a run and its id.
RunName = tuple[object, object]


@dataclass(slots=True, eq=False)
class Run:
    """A run, as far as this process tells of it. After its end it stays: calls may come late."""

    place: Place
    parent: RunName | None
    provider: str | None = None
    model: str | None = None
    started: bool = False
    ended: bool = False
    inference_calls: int = 0
    tool_calls: int = 0
    totals: dict[str, float] = field(default_factory=dict)


class Sums:
    """The runs and their sums; bounded, and with no lock of its own."""

    def __init__(self) -> None:
        self._runs: Recent[RunName, Run] = Recent(RUNS)
        self._tools: Recent[tuple[object, ...], bool] = Recent(TOOLS)
        self._forget_last()

    def _forget_last(self) -> None:
        self._last: tuple[object, object, object, Place, Run | None] = (self, self, self, (None, None, None), None)

    def at(self, event: Event) -> tuple[Place, Run | None]:
        """Where something happens, and its run, if it has one; most events happen where the one before them did."""
        root, run_id, attempt, place, run = self._last
        if event.invocation_id is run_id and event.root_invocation_id is root and event.attempt is attempt:
            return place, run
        place = place_of(event)
        run = self._run(event, place)
        if run is None:
            return place, None
        if run.place == place:
            place = run.place  # one tuple for all calls of a run
        if place[1] is not None:  # whether a run without ids goes on is asked each time
            self._last = (event.root_invocation_id, event.invocation_id, event.attempt, place, run)
        return place, run

    def _run(self, event: Event, place: Place) -> Run | None:
        """The run in which something happens; made where its start was not seen, so that its callers get its sums."""
        root, run_id, _ = place
        if run_id is None and root is not None:
            return None
        run = self._runs.get(_name(event, place))
        return self._new(event, place) if run is None and run_id is not None else run

    def _new(self, event: Event, place: Place) -> Run:
        run = Run(place, _parent(event, place))
        self._runs.put(_name(event, place), run)
        return run

    def start(self, event: AgentStart) -> None:
        """A run begins, or another attempt at it."""
        place, run = self.at(event)
        anonymous = place[0] is None and place[1] is None
        if run is None and not anonymous:
            return
        if run is None or run.place != place or (anonymous and run.ended):
            run = self._new(event, place)
            self._forget_last()
        run.parent = run.parent or _parent(event, place)
        if not run.started:
            run.started = True
            run.provider = event.model_provider if isinstance(event.model_provider, str) else None
            run.model = event.model if isinstance(event.model, str) else None

    def tool(self, event: ToolCall) -> None:
        """A tool call is over."""
        place, run = self.at(event)
        if run is None or run.ended:
            return
        call_id = id_of(event.tool_call_id)
        if call_id is None or not self.is_known((place, call_id)):
            run.tool_calls += 1

    def is_known(self, name: tuple[object, ...]) -> bool:
        """Whether something was told of before under this name; it is remembered."""
        known = self._tools.get(name) is not None
        self._tools.put(name, True)
        return known

    def add(self, run: Run, account: Account) -> None:
        """Add what a model call in this run has used, to its callers, too."""
        if account.duplicate is None:
            run.inference_calls += 1
        used = used_by(account)
        if not used:
            return
        for above in (run,) if run.parent is None else self._upwards(run):
            totals = above.totals
            for key, amount in used.items():
                totals[key] = totals.get(key, 0) + amount

    def _upwards(self, run: Run) -> list[Run]:
        """The run and its callers, each once, though they may go round in a circle."""
        passed: list[Run] = []
        above: Run | None = run
        while above is not None and above not in passed and len(passed) < DEPTH:
            passed.append(above)
            above = None if above.parent is None else self._runs.get(above.parent)
        return passed

    def end(self, event: AgentEnd) -> RunAccount | None:
        """What the run comes to; None where it has ended before, or nothing else was told of it."""
        place, run = self.at(event)
        if run is None or run.ended or run.place != place:
            return None
        run.ended = True
        if not (run.started or run.totals or run.tool_calls):
            return None
        return RunAccount(run.inference_calls, run.tool_calls, mismatch(event, run.totals))


def _name(event: Event, place: Place) -> RunName:
    """Of a producer that gives no ids at all each source has one run at a time."""
    return ("", id_of(event.source)) if place[1] is None else place[:2]


def _parent(event: Event, place: Place) -> RunName | None:
    parent = id_of(event.parent_invocation_id)
    return None if parent is None else (place[0], parent)
