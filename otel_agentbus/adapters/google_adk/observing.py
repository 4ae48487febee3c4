"""Where ADK's runs, model calls and tool calls begin and end, wrapped: each becomes a block."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from weakref import WeakSet

from google.adk.agents.base_agent import BaseAgent
from google.adk.flows.llm_flows.base_llm_flow import BaseLlmFlow
from google.adk.plugins.plugin_manager import PluginManager
from google.adk.runners import Runner

from ...blocks import Block, installed
from ...callbacks import OpenBlocks
from ...invocation import current, top
from ..losses import Shielded
from ..plain import plain
from ..wrapping import Function, wrap
from . import mapping
from .driving import Watch, driven
from .runs import AgentRun, ModelCall, Run, running

_UNSEEN = Shielded("a step of google-adk could not be observed")


class Observation:
    """Every runner of this process, observed until `off()`; what runs then is observed to its end."""

    #: ADK has no instrumentation that would have to go on below ours; its own spans are its own affair.
    chained = False

    def __init__(self) -> None:
        self.open: WeakSet[Run] = WeakSet()
        self.on = True
        self._tools = OpenBlocks()
        self._undo = [
            wrap(Runner, "run_async", self._around_run),
            wrap(Runner, "run_live", self._around_run),
            wrap(BaseAgent, "run_async", self._around_agent),
            wrap(BaseAgent, "run_live", self._around_agent),
            wrap(BaseLlmFlow, "_run_and_handle_error", self._around_model),
            wrap(PluginManager, "run_before_tool_callback", self._around_before_tool),
            wrap(PluginManager, "run_after_tool_callback", self._around_after_tool),
            wrap(PluginManager, "run_on_tool_error_callback", self._around_tool_error),
        ]

    @property
    def wrapped(self) -> bool:
        """Whether ADK is still as we have made it: until the last run that we observe is over."""
        return bool(self._undo)

    @property
    def tools_open(self) -> int:
        """How many calls of tools are under way."""
        return len(self._tools)

    def off(self) -> None:
        """Leave ADK as it was found, once the runs that have begun are over."""
        self.on = False
        self._leave()

    def _over(self, run: Run) -> None:
        self.open.discard(run)
        self._leave()

    def _leave(self) -> None:
        if not self.on and not self.open:
            while self._undo:
                self._undo.pop()()

    def _observes(self) -> bool:
        return self.on or running.get() is not None

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _around_run(self, found: Function) -> Function:
        def run(runner: Any, *args: Any, **named: Any) -> Any:
            source = found(runner, *args, **named)
            return driven(source, partial(self._begin_run, runner, named)) if self._observes() else source

        return run

    def _begin_run(self, runner: Any, named: dict[str, Any]) -> Run:
        root, above = runner.agent, current()
        known = running.get() is not None or (above is not None and above.conversation_id is not None)
        session = named.get("session_id") or getattr(named.get("session"), "id", None)
        block = mapping.agent_block(
            root,
            conversation_id=None if known else session,  # a nested runner's session is no conversation of anybody's
            input=mapping.said(named.get("new_message")),
            **{"adk.app.name": runner.app_name},
        )
        run = Run(block, getattr(root, "name", ""), named.get("abort_signal"), self._over)
        self.open.add(run)
        return run

    # -- agents --------------------------------------------------------------------------------------------------------

    def _around_agent(self, found: Function) -> Function:
        def run(agent: Any, *args: Any, **named: Any) -> Any:
            source = found(agent, *args, **named)
            context = args[0] if args else named.get("parent_context")
            return driven(source, partial(self._begin_agent, agent, context)) if self._observes() else source

        return run

    def _begin_agent(self, agent: Any, context: Any) -> Watch:
        run = running.get()
        if run is not None and run.name == agent.name and top() is run.block:
            return Watch()  # the root agent, whose block has begun with its runner's run
        said = {"adk.invocation.id": getattr(context, "invocation_id", None), "adk.branch": _branch(context)}
        return AgentRun(mapping.agent_block(agent, **said), run)

    # -- model calls ---------------------------------------------------------------------------------------------------

    def _around_model(self, found: Function) -> Function:
        def call(
            flow: Any, response_generator: Any, invocation_context: Any, llm_request: Any, *args: Any, **named: Any
        ) -> Any:
            responses = response_generator
            if self._observes():
                with _UNSEEN:
                    responses = self._begin_model(response_generator, invocation_context, llm_request)
            return found(flow, responses, invocation_context, llm_request, *args, **named)

        return call

    def _begin_model(self, responses: Any, context: Any, request: Any) -> Any:
        config = context.run_config
        if getattr(config, "support_cfc", None) is True or not hasattr(responses, "__aiter__"):
            return responses  # a live session with calls of tools inside, which is no single call
        stream = getattr(getattr(config, "streaming_mode", None), "value", None) == "sse"
        content = installed() is not None
        block = mapping.llm_block(context.agent, request, stream=stream, content=content)
        call = ModelCall(block, running.get(), stream=stream, content=content)
        return driven(responses, lambda: call)

    # -- tool calls ----------------------------------------------------------------------------------------------------

    def _around_before_tool(self, found: Function) -> Function:
        async def before(manager: Any, *args: Any, **named: Any) -> Any:
            answered = await found(manager, *args, **named)
            if answered is None and self._observes():
                with _UNSEEN:
                    self._begin_tool(**named)
            return answered

        return before

    def _begin_tool(self, tool: Any, tool_args: Any, tool_context: Any) -> None:
        run = running.get()
        given = tool_context.function_call_id
        block = mapping.tool_block(tool, given if run is None else run.call_id(given), tool_args)
        self._tools.begin(tool_context, block)
        task = asyncio.current_task()
        if task is not None:  # a call that is cancelled, or fails in somebody's callback, ends unheard otherwise
            task.add_done_callback(partial(self._end_with_task, tool_context, block))

    def _end_with_task(self, tool_context: Any, block: Block, task: asyncio.Task[Any]) -> None:
        with _UNSEEN:
            if self._tools.get(tool_context) is block:
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
                self._tools.end(tool_context, error)

    def _around_after_tool(self, found: Function) -> Function:
        async def after(manager: Any, *args: Any, **named: Any) -> Any:
            with _UNSEEN:
                self._end_tool(named["tool_context"], named["result"])
            return await found(manager, *args, **named)

        return after

    def _end_tool(self, tool_context: Any, result: Any) -> None:
        told = None
        with _UNSEEN:
            told = plain(result)
        self._tools.end(tool_context, result=told)

    def _around_tool_error(self, found: Function) -> Function:
        async def failed(manager: Any, *args: Any, **named: Any) -> Any:
            with _UNSEEN:
                self._tools.end(named["tool_context"], named["error"])
            return await found(manager, *args, **named)

        return failed


def _branch(context: Any) -> str | None:
    branch = getattr(context, "branch", None)
    return branch if isinstance(branch, str) and branch else None


_last: list[Observation] = []


def instrument() -> Observation:
    """Observe every runner of this process."""
    if _last and _last[0].wrapped:  # off, while runs go on that it still observes
        _last[0].on = True
    else:
        _last[:] = [Observation()]
    return _last[0]


__all__ = ["Observation", "instrument"]
