"""Where agent-framework is listened to: the innermost methods that runs, requests and tool calls all come past."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agent_framework import BaseChatClient, FunctionTool, RawAgent, ResponseStream, Workflow
from agent_framework._middleware import MiddlewareTermination
from agent_framework.exceptions import UserInputRequiredException
from agent_framework.observability import AgentTelemetryLayer

from ...blocks import Block
from ...callbacks import hold
from ...invocation import current, top
from ...observe import ToolBlock
from ..tool_ids import ToolCallIds
from ..wrapping import Function, wrap
from . import mapping
from .streams import UNSEEN, Following

#: Control flow of the framework's, no failure of what raises it.
_NO_ERRORS = (MiddlewareTermination, UserInputRequiredException)


class Run:
    """What is kept while a run lasts."""

    def __init__(self) -> None:
        self.conversation = mapping.Conversation()
        self.tool_call_id = ToolCallIds()


class Call:
    """How one call that comes past is told: its block, and what its end says."""

    def __init__(
        self,
        block: Callable[[], Block],
        said: Callable[[Any], dict[str, Any]],
        streamed: Callable[[Sequence[Any]], dict[str, Any]],
    ) -> None:
        self.block = block
        self.said = said
        self.streamed = streamed


class Observation:
    """agent-framework, observed: our end of its layers, until `off()`."""

    chained = False

    def __init__(self) -> None:
        self._listening = True
        self._runs: dict[str, Run] = {}
        self._undo: list[Callable[[], None]] = []

    def on(self) -> Observation:
        """Listen."""
        self._undo = [
            wrap(RawAgent, "run", self._around_agent),
            wrap(AgentTelemetryLayer, "run", self._around_other_agent),
            wrap(BaseChatClient, "get_response", self._around_client),
            wrap(FunctionTool, "invoke", self._around_tool),
            wrap(Workflow, "run", self._around_workflow),
        ]
        if hasattr(FunctionTool, "_invoke_function"):
            self._undo.append(wrap(FunctionTool, "_invoke_function", self._around_body))
        return self

    def off(self) -> None:
        """Observe nothing new, and leave the framework as it was found as soon as the runs that have begun are over."""
        self._listening = False
        self._withdraw()

    def _withdraw(self) -> None:
        if not self._listening and not self._runs:
            while self._undo:
                self._undo.pop()()

    # -- what comes past -----------------------------------------------------------------------------------------------

    def _around_agent(self, found: Function) -> Function:
        def run(agent: Any, messages: Any = None, *args: Any, **named: Any) -> Any:
            def block() -> Block:
                return mapping.agent_block(agent, messages, named.get("options"), named.get("session"))

            call = Call(block, mapping.agent_end, mapping.agent_end_of)
            return self._observed(
                call, lambda: found(agent, messages, *args, **named), stream=bool(named.get("stream"))
            )

        return run

    def _around_other_agent(self, found: Function) -> Function:
        """Agents of another kind: a remote one's, say, that has the framework's telemetry, but no chat client."""
        observed = self._around_agent(found)

        def run(agent: Any, *args: Any, **named: Any) -> Any:
            return (found if isinstance(agent, RawAgent) else observed)(agent, *args, **named)

        return run

    def _around_workflow(self, found: Function) -> Function:
        def run(workflow: Any, *args: Any, **named: Any) -> Any:
            call = Call(lambda: mapping.workflow_block(workflow), _nothing, _nothing)
            return self._observed(call, lambda: found(workflow, *args, **named), stream=bool(named.get("stream")))

        return run

    def _around_client(self, found: Function) -> Function:
        def get_response(client: Any, messages: Any, *args: Any, **named: Any) -> Any:
            provider = mapping.provider_of(client)
            stream = bool(named.get("stream"))

            def block() -> Block:
                options = named.get("options")
                run = self._run() or Run()
                rendered = run.conversation.render(messages)
                asked = options if isinstance(options, Mapping) else {}
                return mapping.llm_block(client, rendered, len(rendered), asked, stream=stream)

            call = Call(
                block,
                lambda response: mapping.llm_end(response, provider),
                lambda updates: mapping.llm_end_of(updates, provider),
            )
            return self._observed(call, lambda: found(client, messages, *args, **named), stream=stream)

        return get_response

    def _around_tool(self, found: Function) -> Function:
        def invoke(tool: Any, *args: Any, **named: Any) -> Any:
            def block() -> Block:
                run = self._run()
                given, context = named.get("arguments"), named.get("context")
                if given is None and context is not None:
                    given = context.arguments
                call_id = named.get("tool_call_id")
                return mapping.tool_block(tool, call_id if run is None else run.tool_call_id(call_id), given)

            call = Call(block, mapping.tool_end, _nothing)
            return self._observed(call, lambda: found(tool, *args, **named), stream=False)

        return invoke

    def _around_body(self, found: Function) -> Function:
        """Inside a span of the framework's own, which may be recorded, ours is the current one for the tool's code."""

        async def _invoke_function(*args: Any, **named: Any) -> Any:
            leave: Callable[[], None] | None = None
            with UNSEEN:
                here = top()
                leave = hold(here) if isinstance(here, ToolBlock) else None
            try:
                return await found(*args, **named)
            finally:
                with UNSEEN:
                    if leave is not None:
                        leave()

        return _invoke_function

    # -- how it is told ------------------------------------------------------------------------------------------------

    def _run(self) -> Run | None:
        """The run of ours that goes on here."""
        here = current()
        return None if here is None else self._runs.get(here.id)

    def _observed(self, call: Call, ask: Callable[[], Any], *, stream: bool) -> Any:
        if not self._listening and self._run() is None:
            return ask()
        return self._followed(call, ask) if stream else self._awaited(call, ask())

    def _followed(self, call: Call, ask: Callable[[], Any]) -> Any:
        following: Following | None = None
        with UNSEEN:
            block = call.block()
            following = Following(block, call.streamed, lambda: self._over(block))
            following.begin()
            self._begun(block)
        if following is None:
            return ask()
        try:
            stream = _held(following.block, ask)
        except BaseException as error:
            following.end(error)
            raise
        with UNSEEN:
            if isinstance(stream, ResponseStream):
                following.follow(stream)
            else:
                following.end(None)
        return stream

    async def _awaited(self, call: Call, answer: Awaitable[Any]) -> Any:
        block: Block | None = None
        try:
            with UNSEEN:
                block = call.block().start()
                self._begun(block)
        except BaseException:
            getattr(answer, "close", _nothing_at_all)()  # refused: nobody will await it
            raise
        try:
            response = await answer
        except BaseException as error:
            self._end(block, None if isinstance(error, _NO_ERRORS) else error)
            raise
        with UNSEEN:
            if block is not None:
                block.record(**{key: value for key, value in call.said(response).items() if value is not None})
        self._end(block, None)
        return response

    def _end(self, block: Block | None, error: BaseException | None) -> None:
        with UNSEEN:
            if block is not None:
                block.end(error)
                self._over(block)

    def _begun(self, block: Block) -> None:
        if block.kind == "agent":
            self._runs[block.invocation.id] = Run()

    def _over(self, block: Block) -> None:
        if block.kind == "agent":
            self._runs.pop(block.invocation.id, None)
            self._withdraw()


def _held(block: Block, ask: Callable[[], Any]) -> Any:
    leave: Callable[[], None] | None = None
    with UNSEEN:
        leave = hold(block)
    try:
        return ask()
    finally:
        with UNSEEN:
            if leave is not None:
                leave()


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def _nothing_at_all() -> None:
    return None


def instrument() -> Observation:
    """Observe every agent, workflow, chat client and tool of this process."""
    return Observation().on()
