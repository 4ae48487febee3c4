"""One call of the Runner: what its spans do not tell, passed on to whoever hears them.

The SDK's hooks of a run are an object that is given to each call of the Runner; the program's own, where it has one,
goes on being called, at the same place and in the same task.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from agents import RunHooks
from agents.lifecycle import RunHooksBase

from ..losses import Shielded
from ..tool_ids import ToolCallIds
from . import mapping, messages

if TYPE_CHECKING:
    from .spans import Observer

Function = Callable[..., Any]

_UNSEEN = Shielded("a run of the Agents SDK could not be observed")


class Run:
    """What is known of one call of the Runner, from its arguments."""

    def __init__(self, given: dict[str, Any], *, streamed: bool) -> None:
        self.agent: Any = given.get("starting_agent")
        self.input: Any = given.get("input")
        config = given.get("run_config")
        self.config: Any = None if isinstance(config, dict) else config
        self.streamed = streamed
        self._config = config
        self._session = given.get("session")
        self._conversation = given.get("conversation_id")
        #: The agents that may come, by their names: the first, and those that are handed over to.
        self.agents: dict[str, Any] = {str(getattr(self.agent, "name", "")): self.agent}
        #: The span of the run as a whole, whose block is the first agent; whether that has begun, and whether the
        #: run has its output.
        self.root: str | None = None
        self.entered = False
        self.answered = False
        self.tool_call_id = ToolCallIds()

    @property
    def content(self) -> bool:
        """Whether the program lets messages, arguments and results into its traces."""
        config = self._config
        if isinstance(config, dict):
            return bool(config.get("trace_include_sensitive_data", True))
        return bool(getattr(config, "trace_include_sensitive_data", True))

    @property
    def text(self) -> str | list[Any] | None:
        """The input, unless it is a state that goes on."""
        if isinstance(self.input, str):
            return self.input
        return messages.conversation(None, self.input) if isinstance(self.input, list) else None

    def conversation_id(self, group_id: Any) -> str | None:
        """The application's own name of the conversation: the trace's group, the session, or the provider's."""
        for id in (group_id, getattr(self._session, "session_id", None), self._conversation):
            if isinstance(id, str) and id:
                return id
        return None


#: The call of the Runner that goes on here; its tasks and its tools' threads inherit it.
current_run: ContextVar[Run | None] = ContextVar("otel_agentbus_openai_agents_run", default=None)


class ObservedHooks(RunHooks[Any]):
    """Hooks of a run that tell the observer, and then call the program's own."""

    def __init__(self, observer: Observer, run: Run, theirs: RunHooksBase[Any, Any] | None) -> None:
        self._observer = observer
        self._run = run
        self._theirs = RunHooks[Any]() if theirs is None else theirs

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        """An agent begins; its span has begun before."""
        with _UNSEEN:
            self._observer.agent_begins(self._run, agent)
        await self._theirs.on_agent_start(context, agent)

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        """An agent has its final output."""
        with _UNSEEN:
            self._observer.agent_answers(self._run, output)
        await self._theirs.on_agent_end(context, agent, output)

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        """An agent hands over to another one."""
        with _UNSEEN:
            self._run.agents[to_agent.name] = to_agent
        await self._theirs.on_handoff(context, from_agent, to_agent)

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: Any) -> None:
        """A model is about to be asked."""
        with _UNSEEN:
            self._observer.model_is_asked(self._run, agent, system_prompt, input_items)
        await self._theirs.on_llm_start(context, agent, system_prompt, input_items)

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        """A model has answered."""
        with _UNSEEN:
            self._observer.model_has_answered(self._run, response)
        await self._theirs.on_llm_end(context, agent, response)

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """A tool is about to be called."""
        with _UNSEEN:
            self._observer.tool_is_called(context)
        await self._theirs.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        """A tool has given its result; its span will tell."""
        await self._theirs.on_tool_end(context, agent, tool, result)


def running(observer: Observer) -> Callable[[Function], Function]:
    """Around `Runner.run`."""

    def around(found: Function) -> Function:
        signature = inspect.signature(found)

        async def run(*args: Any, **named: Any) -> Any:
            run, args, named = _observed(observer, signature, args, named, streamed=False)
            before = current_run.get()
            current_run.set(run or before)
            try:
                return await found(*args, **named)
            finally:
                current_run.set(before)

        return run

    return around


def starting(observer: Observer, *, streamed: bool) -> Callable[[Function], Function]:
    """Around `Runner.run_sync` and `Runner.run_streamed`, which make a task that inherits this context."""

    def around(found: Function) -> Function:
        signature = inspect.signature(found)

        def start(*args: Any, **named: Any) -> Any:
            run, args, named = _observed(observer, signature, args, named, streamed=streamed)
            before = current_run.get()
            current_run.set(run or before)
            try:
                return found(*args, **named)
            finally:
                current_run.set(before)

        return start

    return around


def _observed(
    observer: Observer, signature: inspect.Signature, args: Any, named: Any, *, streamed: bool
) -> tuple[Run | None, tuple[Any, ...], dict[str, Any]]:
    """The run that these arguments begin, and the arguments with our hooks; as they were where they are not right."""
    with _UNSEEN:
        try:
            bound = signature.bind(*args, **named)
        except TypeError:
            return None, args, named  # the SDK will say so
        theirs = bound.arguments.get("hooks")
        if mapping.is_agent(bound.arguments.get("starting_agent")) and isinstance(theirs, RunHooksBase | None):
            observer.listen()
            run = Run(bound.arguments, streamed=streamed)
            bound.arguments["hooks"] = ObservedHooks(observer, run, theirs)
            return run, bound.args, bound.kwargs
    return None, args, named


__all__ = ["ObservedHooks", "Run", "current_run", "running", "starting"]
