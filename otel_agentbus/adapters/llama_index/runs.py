"""Runs of agents and workflows: their steps are no blocks, but run with the run, or with the agent at work, as current.

A run is told where it begins: in the code that calls it or in a task of its own, by version. Its steps are tasks that
are started by neither; so each step holds its run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ... import observe
from ...events import DomainEvent
from ..losses import Shielded
from ..tool_ids import ToolCallIds
from .kinds import kind_of, model_of, provider_of
from .mapping import attribute, conversation_of, outcome, plain, question
from .places import Places, Span

_UNSEEN = Shielded("a run of LlamaIndex could not be told whole")
#: By which a tool, or a step, says that it waits for somebody: no failure, it will be called again.
_WAITS: Final = "WaitingForEvent"


class Run(Span):
    """One run of an agent, of several that hand over to each other, or of a workflow."""

    __slots__ = (
        "_failure",
        "_places",
        "_team",
        "_told",
        "_turns",
        "agent",
        "cancelled",
        "instance",
        "is_agents",
        "tool_call_id",
    )

    def __init__(self, id: str, parent: Span | None, instance: Any, places: Places, *, told: bool) -> None:
        super().__init__(id, parent)
        self.instance = instance
        self._places = places
        kind = kind_of(instance)
        #: Whether its steps are those of agents, not a program's own.
        self.is_agents = kind in ("agent", "team")
        agents = instance.agents if kind == "team" else {}
        self._team: Mapping[str, Any] = agents if len(agents) > 1 else {}
        #: The member of the team that is at work, by name, and the id under which its block is open.
        self.agent: tuple[str, str] | None = None
        self.cancelled = False
        self._told = told
        self._turns = 0
        self._failure: BaseException | None = None
        self.tool_call_id = ToolCallIds()

    @property
    def block_id(self) -> str | None:
        """Under which id the block is open that what happens now belongs to; None where the run is none."""
        return self.agent[1] if self.agent is not None else self.id if self._told else None

    def begin(self, arguments: Mapping[str, Any], tags: Mapping[str, Any] | None) -> None:
        """Begin its block, which is current in its steps only."""
        if self._told:
            self._places.begin(self.id, _run_block(self.instance, arguments, tags), held=False)

    def work(self, name: str) -> None:
        """From now on this agent of the team is at work."""
        before = self.agent
        if name not in self._team or (before is not None and before[0] == name):
            return
        if before is not None:
            self._places.end(before[1])
            self.agent = None
            self._places.hold(self.id, self.id)
            _publish("agent.handoff", {"from": before[0], "to": name})
            self._places.release(self.id)
        self._turns += 1
        place = f"{self.id} {self._turns}"
        self._places.begin(place, _agent_block(self._team[name]), under=self.id, held=False)
        self.agent = (name, place)

    def failed(self, error: BaseException) -> None:
        """A step has failed; older versions do not tell it of the run."""
        self._failure = error

    def exit(self, result: Any) -> None:
        """The run is over."""
        if self.cancelled:
            self._end(GeneratorExit(), None)
        elif result is None and self._failure is not None:
            self._end(self._failure, None)
        else:
            self._end(None, result)

    def drop(self, error: BaseException) -> None:
        """The run has failed or was cancelled."""
        self._end(GeneratorExit() if self.cancelled or _is_cancelled(error) else error, None)

    def _end(self, error: BaseException | None, result: Any) -> None:
        if self.agent is not None:
            self._places.end(self.agent[1], error)
        fields: dict[str, Any] = {}
        with _UNSEEN:
            fields["output"] = outcome(getattr(result, "result", result))
        self._places.end(self.id, error, fields)


class Step(Span):
    """One step of a run; of an agent that calls a tool, the tool call."""

    __slots__ = ("_places", "_run", "_tool", "ended", "raised")

    def __init__(self, id: str, run: Run, places: Places) -> None:
        super().__init__(id, run)
        self._run = run
        self._places = places
        self._tool: str | None = None
        #: What the tool has raised; the outputs of older versions do not keep it.
        self.raised: BaseException | None = None
        #: Told of the end of its tool call.
        self.ended: Callable[[], None] | None = None

    def begin(self, method: str, arguments: Mapping[str, Any]) -> observe.ToolBlock | None:
        """Hold the run here; gives the tool call that this step is, if it is one."""
        run = self._run
        event = _event_of(arguments) if run.is_agents else None
        name = attribute(event, "current_agent_name")
        if method == "run_agent_step" and isinstance(name, str):
            run.work(name)
        block = _tool_block(run, event) if method == "call_tool" else None
        if run.block_id is not None:
            self._places.hold(self.id, run.block_id)
        if block is None:
            return None
        self._tool = f"tool {self.id}"
        try:
            self._places.begin(self._tool, block)
        except BaseException as refusal:
            self._places.release(self.id)
            run.failed(refusal)
            raise
        return block

    def exit(self, result: Any) -> None:
        """The step is over; a tool's failure is in its result, for the model to see."""
        if self._tool is not None:
            error: BaseException | None = GeneratorExit() if result is None else None  # it waits, or was cancelled
            fields: dict[str, Any] = {}
            with _UNSEEN:
                output = attribute(result, "tool_output")
                if output is not None:
                    error, fields = told_output(output, self.raised)
            self._end(error, fields)
        else:
            self._end(None, {})

    def drop(self, error: BaseException) -> None:
        """The step has failed, and the run with it (or it is tried again)."""
        if not is_waiting(error):
            self._run.failed(error)
        self._end(GeneratorExit() if is_waiting(error) else error, {})

    def _end(self, error: BaseException | None, fields: Mapping[str, Any]) -> None:
        if self._tool is not None:
            self._places.release(self._tool)
            self._places.end(self._tool, error, fields)
        self._places.release(self.id)
        if self.ended is not None:
            self.ended()


def _tool_block(run: Run, event: Any) -> observe.ToolBlock | None:
    name = attribute(event, "tool_name")
    if not isinstance(name, str):
        return None
    given = run.tool_call_id(attribute(event, "tool_id"))
    return observe.tool(name, tool_call_id=given, arguments=plain(attribute(event, "tool_kwargs")))


def told_output(output: Any, raised: BaseException | None = None) -> tuple[BaseException | None, dict[str, Any]]:
    """What a tool's output says: the exception that the model was told of, and the fields of the end event."""
    if not getattr(output, "is_error", False):
        return None, {"result": plain_output(output)}
    error = getattr(output, "exception", None) or raised
    if isinstance(error, BaseException):
        return error, {}
    return None, {"success": False, "error_type": "tool_error", "error_message": str(output.content)}


def plain_output(output: Any) -> Any:
    """What a tool has given back, as the model sees it."""
    raw = getattr(output, "raw_output", None)
    if isinstance(raw, (str, int, float, dict)):
        return plain(raw)
    content = getattr(output, "content", None)
    return content if isinstance(content, str) else plain(output)


def is_waiting(error: BaseException) -> bool:
    """Whether this only says that the step waits for an event, and will be called again."""
    return type(error).__name__ == _WAITS


def _is_cancelled(error: BaseException) -> bool:
    return type(error).__name__ == "WorkflowCancelledByUser"


def _event_of(arguments: Mapping[str, Any]) -> Any:
    """The event that a step was called with."""
    event = arguments.get("ev")
    if event is not None:
        return event
    named = arguments.get("kwargs")
    return named.get("ev") if isinstance(named, Mapping) else None


def _run_block(instance: Any, arguments: Mapping[str, Any], tags: Mapping[str, Any] | None) -> observe.AgentBlock:
    start = arguments.get("start_event")
    said = conversation_of(tags)
    kind = kind_of(instance)
    if kind == "team" and len(instance.agents) == 1:
        instance, kind = next(iter(instance.agents.values())), "agent"
    if kind == "agent":
        return _agent_block(instance, _input(start), said)
    return observe.agent(type(instance).__name__, input=_input(start), conversation_id=said)


def _agent_block(agent: Any, input: Any = None, conversation_id: str | None = None) -> observe.AgentBlock:
    llm = agent.llm
    return observe.agent(
        agent.name,
        provider=provider_of(llm),
        model=model_of(llm),
        conversation_id=conversation_id,
        instructions=agent.system_prompt,
        input=input,
    )


def _input(start: Any) -> Any:
    """What the user asked: the message or, without one, the last of the history."""
    asked = None
    with _UNSEEN:
        get = getattr(start, "get", None)
        if callable(get):
            asked = question(get("user_msg", None))
            history = get("chat_history", None)
            if asked is None and history:
                asked = question(history[-1])
    return asked


def _publish(name: str, data: dict[str, Any]) -> None:
    runtime = observe.installed()
    if runtime is not None:
        runtime.emit(DomainEvent(name=name, data=data))


__all__ = ["Run", "Step", "is_waiting", "plain_output", "told_output"]
