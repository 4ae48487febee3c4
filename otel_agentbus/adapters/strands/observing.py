"""Where Strands is listened to: the dispatch of its hook events, its model calls, and the steps of its tool calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from strands.event_loop import event_loop
from strands.hooks import (
    AfterInvocationEvent,
    AfterToolCallEvent,
    BeforeInvocationEvent,
    BeforeToolCallEvent,
    HookRegistry,
)
from strands.hooks.events import (
    AfterMultiAgentInvocationEvent,
    BeforeMultiAgentInvocationEvent,
    BeforeNodeCallEvent,
)
from strands.interrupt import InterruptException
from strands.tools.executors import _executor

from ...blocks import Block
from ...callbacks import MOST, OpenBlocks, hold
from ...events import DomainEvent
from ...observe import installed
from ..wrapping import Function, wrap
from . import mapping
from .steps import UNSEEN, ModelCall, Run, ToolBody, ToolCalling, running_tool, stepwise

#: Marks that a tool is called by an agent's loop, not directly by the program.
_IN_LOOP = "event_loop_cycle_id"


class Observation:
    """Strands, observed: our end of its hooks, until `off()`."""

    chained = False

    def __init__(self) -> None:
        self.open = OpenBlocks()
        self._runs: dict[tuple[int, int], Run] = {}
        self._undo: list[Callable[[], None]] = []
        self._before: Mapping[type, Callable[[Any], None]] = {
            BeforeInvocationEvent: self._agent_begins,
            BeforeToolCallEvent: self._tool_begins,
            BeforeMultiAgentInvocationEvent: self._orchestrator_begins,
            BeforeNodeCallEvent: self._node_begins,
        }
        self._after: Mapping[type, Callable[[Any], None]] = {
            AfterInvocationEvent: self._agent_ends,
            AfterToolCallEvent: self._tool_ends,
            AfterMultiAgentInvocationEvent: self._orchestrator_ends,
        }

    def on(self) -> Observation:
        """Listen."""
        self._undo = [
            wrap(HookRegistry, "invoke_callbacks_async", self._around_hooks),
            wrap(event_loop, "stream_messages", self._around_model),
            wrap(_executor.ToolExecutor, "_stream", self._around_tool),
        ]
        if hasattr(_executor, "_run_tool"):  # before there was middleware, `_stream` had no span of its own around it
            self._undo.append(wrap(_executor, "_run_tool", self._around_body))
        return self

    def off(self) -> None:
        """Observe nothing new, and leave Strands as it was found as soon as the runs that have begun are over."""
        self.open.off()
        self._withdraw()

    def _withdraw(self) -> None:
        if not self.open.on and not self._runs:
            while self._undo:
                self._undo.pop()()

    # -- where Strands is listened to ----------------------------------------------------------------------------------

    def _around_hooks(self, found: Function) -> Function:
        async def invoke_callbacks_async(registry: HookRegistry, event: Any) -> Any:
            kind = type(event)
            if kind in self._after:
                with UNSEEN:
                    self._after[kind](event)
                return await found(registry, event)
            told = await found(registry, event)
            if kind in self._before:
                with UNSEEN:
                    if not told[1]:  # interrupted: it will not happen
                        self._before[kind](event)
            return told

        return invoke_callbacks_async

    def _around_model(self, found: Function) -> Function:
        def stream_messages(model: Any, system_prompt: Any, messages: Any, *args: Any, **named: Any) -> Any:
            call = ModelCall(self.open, named.get("model_state"))
            with UNSEEN:
                run = self._run_of(named.get("cancel_signal"), named.get("invocation_state"))
                if run is not None:
                    rendered = run.conversation.render(messages)
                    call.begin(mapping.llm_block(model, system_prompt, rendered, len(messages)), run)
            return stepwise(found(model, system_prompt, messages, *args, **named), call)

        return stream_messages

    def _around_tool(self, found: Function) -> Function:
        def _stream(*args: Any, **named: Any) -> Any:
            return stepwise(found(*args, **named), ToolCalling(self.open))

        return _stream

    def _around_body(self, found: Function) -> Function:
        def _run_tool(*args: Any, **named: Any) -> Any:
            calling = running_tool.get()
            body = found(*args, **named)
            if calling is None or calling.open is not self.open or calling.block is None:
                return body
            return stepwise(body, ToolBody(calling))

        return _run_tool

    # -- what its events say -------------------------------------------------------------------------------------------

    def _agent_begins(self, event: Any) -> None:
        run = Run(event.agent, event.invocation_state)
        block = mapping.agent_block(event.agent, getattr(event, "messages", None))
        self._begin(run, block, self._orchestrator_of(event.agent, event.invocation_state))

    def _agent_ends(self, event: Any) -> None:
        run = self._taken(event.agent, event.invocation_state)
        if run is None:
            return
        error, said = _failure(run) if event.result is None else None, {}
        with UNSEEN:
            said = mapping.agent_end(event.result)
        self._end(run, error, **said)

    def _orchestrator_begins(self, event: Any) -> None:
        run = Run(event.source, event.invocation_state)
        self._begin(
            run, mapping.orchestrator_block(event.source), self._orchestrator_of(event.source, event.invocation_state)
        )

    def _orchestrator_ends(self, event: Any) -> None:
        run = self._taken(event.source, event.invocation_state)
        if run is None:
            return
        state = getattr(event.source, "state", None)
        status = getattr(state, "completion_status", None) or getattr(state, "status", None)
        error, said = _failure(run), {}
        if error is None and getattr(status, "name", None) == "FAILED":
            said = {"outcome": "error", "error_type": "node_failed", "error_message": "A node has failed."}
        self._end(run, error, **said)

    def _node_begins(self, event: Any) -> None:
        run = self._runs.get((id(event.source), id(event.invocation_state)))
        block, runtime = self.open.get(run), installed()
        if run is None or block is None or runtime is None or not hasattr(event.source, "entry_point"):
            return
        before, run.node = run.node, event.node_id
        if before is not None and not event.cancel_node:
            leave = hold(block)
            runtime.emit(DomainEvent(name="agent.handoff", data={"from": before, "to": event.node_id}))
            leave()

    def _tool_begins(self, event: Any) -> None:
        calling = running_tool.get()
        if calling is None or calling.open is not self.open or event.cancel_tool:
            return
        state = event.invocation_state
        run = self._runs.get((id(event.agent), id(state)))
        if run is None and (_IN_LOOP in state or not self.open.on):
            return  # its run began before we listened, or after
        given = event.tool_use.get("toolUseId")
        call_id = given if run is None else run.tool_call_id(given)
        calling.begin(mapping.tool_block(event.tool_use, call_id), run)

    def _tool_ends(self, event: Any) -> None:
        calling = running_tool.get()
        if calling is not None and calling.open is self.open:
            error, said = mapping.tool_end(event)
            calling.end(error, **said)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _begin(self, run: Run, block: Block, parent: Run | None) -> None:
        if self.open.begin(run, block, parent=parent, current=False) is not None:
            while len(self._runs) >= MOST:
                self._runs.pop(next(iter(self._runs)), None)
            self._runs[id(run.source), id(run.state)] = run

    def _end(self, run: Run, error: BaseException | None, **fields: Any) -> None:
        for call in list(run.calls):
            call.end(error or GeneratorExit())
        self.open.end(run, error, **fields)
        self._withdraw()

    def _taken(self, source: Any, state: Any) -> Run | None:
        run = self._runs.pop((id(source), id(state)), None)
        if run is None:  # some of the events come with a state of their own
            key = next((key for key, run in reversed(self._open_runs()) if run.source is source), None)
            run = None if key is None else self._runs.pop(key, None)
        return run

    def _open_runs(self) -> list[tuple[tuple[int, int], Run]]:
        """Those of now: in other threads, runs begin and end meanwhile."""
        return list(self._runs.items())

    def _run_of(self, signal: Any, state: Any) -> Run | None:
        """The run of the agent that has this signal of its own and, if it runs several times at once, this state."""
        if signal is None:
            return None
        agent = state.get("agent") if isinstance(state, dict) else None
        run = self._runs.get((id(agent), id(state)))
        if run is not None and getattr(agent, "_cancel_signal", None) is signal:
            return run
        found = [run for _, run in self._open_runs() if getattr(run.source, "_cancel_signal", None) is signal]
        return next((run for run in found if run.state is state), found[-1] if found else None)

    def _orchestrator_of(self, executor: Any, state: Any) -> Run | None:
        """The graph or swarm that has this agent as a node and has handed it its own state."""
        for _, run in reversed(self._open_runs()):
            nodes = getattr(run.source, "nodes", None)
            if run.state is state and nodes and any(node.executor is executor for node in nodes.values()):
                return run
        return None


def _failure(run: Run) -> BaseException | None:
    """What is being raised through the run that is ending here; Strands' event of it does not tell."""
    error = sys.exc_info()[1]
    if error is None or error is run.handling or isinstance(error, InterruptException):
        return None
    return mapping.cause_of(error)


def instrument() -> Observation:
    """Observe every agent, graph and swarm of this process."""
    return Observation().on()
