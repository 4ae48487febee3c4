"""agent, llm, tool: the blocks of a program that emit what happens in them.

A block is a context manager (sync and async) and a decorator; it emits its start event, makes itself current, and emits
exactly one end event however it is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .blocks import Block, install, installed, recordable_in, stream
from .calls import LlmBlock, ToolBlock, is_elsewhere
from .events import AgentEnd, AgentStart, Event
from .invocation import Boundary, Frame, Invocation, own_id, owner, text
from .runtime import Runtime, Tracing

if TYPE_CHECKING:
    from collections.abc import Mapping


class AgentBlock(Block):
    """One run of an agent. `llm` and `tool` start calls in it; `invocation` is its lineage."""

    kind = "agent"
    recordable = recordable_in(AgentEnd)

    __slots__ = ("_beside", "_given", "_input", "_instructions", "name")

    _beside: dict[str, Any] | None

    def __init__(
        self,
        name: str,
        provider: str | None,
        model: str | None,
        given: Mapping[str, Any],
        content: tuple[Any, Any],
        attributes: dict[str, Any],
    ) -> None:
        Block.__init__(self, "", provider, model, attributes)
        self.name = text(name)
        self._beside = None
        self._given = given
        self._instructions, self._input = content

    def llm(
        self,
        /,
        model: str | None = None,
        *,
        provider: str | None = None,
        call_id: str | None = None,
        operation: str = "chat",
        stream: bool | None = None,
        messages: Any = None,
        messages_count: int | None = None,
        parameters: dict[str, Any] | None = None,
        **attributes: Any,
    ) -> LlmBlock:
        """A model call of this run; see `llm`."""
        return LlmBlock(
            self, model, provider, call_id, operation, stream, messages, messages_count, parameters, attributes
        )

    def tool(self, /, name: str, **options: Any) -> ToolBlock:
        """A tool call of this run; see `tool`."""
        return ToolBlock(self, name, **options)

    @property
    def local_id(self) -> str:
        """Nothing: a run is named by its invocation."""
        return ""

    def _place(self, frame: Frame | None) -> None:
        given: dict[str, Any] = {key: text(value) for key, value in self._given.items() if value is not None}
        if "invocation_id" in given:
            given["invocation_id"] = own_id(given["invocation_id"])
        self.owner = owner()
        caller = None if frame is None else frame.invocation
        given_id = given.pop("invocation_id", None)
        if frame is None or caller is None or isinstance(frame, Boundary):
            attempt = 1 if caller is None else caller.attempt  # a boundary's: that of a job which is tried again
            if caller is not None:
                given.setdefault("conversation_id", caller.conversation_id)
            self.invocation = Invocation.root(given_id, agent=self.name, attempt=attempt, **given)
            self._beside = {"links": frame.links} if isinstance(frame, Boundary) and frame.links else None
        else:
            self.invocation = caller.child(given_id, agent=self.name, parent_call_id=frame.call, **given)
            self._beside = beside(caller, remote=is_elsewhere(frame))
        self.id = self.invocation.id

    def _starting(self) -> Event:
        run = self.invocation
        attributes = {**self._attributes, "agentbus.invocation.path": "/".join(run.path)}
        if self._beside:
            attributes["agentbus.span"] = self._beside
        return AgentStart(
            time_ns=self.started_ns,
            invocation_id=run.id,
            parent_invocation_id=run.parent_id,
            root_invocation_id=run.root_id,
            parent_call_id=run.parent_call_id,
            attempt=run.attempt,
            agent=self.name,
            channel=run.channel,
            conversation_id=run.conversation_id,
            trace=run.trace,
            tracestate=run.tracestate,
            attributes=attributes,
            model_provider=self.provider,
            model=self.model,
            instructions=self._instructions,
            input=self._input,
        )

    def _ending(self, duration: float, fields: dict[str, Any]) -> Event:
        run = self.invocation
        self._instructions = self._input = None  # contexts copied in here may live for long
        fields.setdefault("model_provider", self.provider)
        fields.setdefault("model", self.model)
        fields.setdefault("channel", run.channel)
        return AgentEnd(
            invocation_id=run.id,
            parent_invocation_id=run.parent_id,
            root_invocation_id=run.root_id,
            parent_call_id=run.parent_call_id,
            attempt=run.attempt,
            agent=self.name,
            conversation_id=run.conversation_id,
            trace=run.trace,
            tracestate=run.tracestate,
            duration=duration,
            **fields,
        )

    def _fresh(self) -> AgentBlock:
        given = {**self._given, "invocation_id": None}  # one id, one run
        content = (self._instructions, self._input)
        return AgentBlock(self.name, self.provider, self.model, given, content, self._attributes)


def beside(caller: Invocation, *, remote: bool) -> dict[str, Any] | None:
    """What a sub-agent's span must know of its caller and cannot see in its own ids."""
    said: dict[str, Any] = {}
    if caller.attempt > 1:
        said["parent_attempt"] = caller.attempt
    if remote:
        said["parent_remote"] = True
    return said or None


def agent(
    name: str,
    *,
    provider: str | None = None,
    model: str | None = None,
    invocation_id: str | None = None,
    conversation_id: str | None = None,
    channel: str | None = None,
    instructions: Any = None,
    input: Any = None,
    **attributes: Any,
) -> AgentBlock:
    """One run of the agent `name`: a context manager (sync and async) and a decorator.

    Under another run it is that one's sub-agent, nested under the call that it was started in; else it is a root.
    `provider` and `model` are the defaults of its model calls. `conversation_id` is the application's, never invented.
    `instructions` and `input` are content: no sink sees them unless asked. Other keywords become attributes.
    """
    given = {"invocation_id": invocation_id, "conversation_id": conversation_id, "channel": channel}
    return AgentBlock(name, provider, model, given, (instructions, input), attributes)


def llm(
    model: str | None = None,
    *,
    provider: str | None = None,
    call_id: str | None = None,
    operation: str = "chat",
    stream: bool | None = None,
    messages: Any = None,
    messages_count: int | None = None,
    parameters: dict[str, Any] | None = None,
    **attributes: Any,
) -> LlmBlock:
    """One model call of the run that is current here (or, without one, a trace of its own).

    `model` and `provider` default to the run's. `parameters` has the request's (temperature, max_tokens ...),
    `operation` is the convention's ("chat", "embeddings" ...). Fill in usage and answer with `record()`.
    """
    return LlmBlock(None, model, provider, call_id, operation, stream, messages, messages_count, parameters, attributes)


def tool(name: str, *, tool_call_id: str | None = None, arguments: Any = None, **attributes: Any) -> ToolBlock:
    """One call of the tool `name` by the run that is current here (or, without one, a trace of its own)."""
    return ToolBlock(None, name, tool_call_id=tool_call_id, arguments=arguments, **attributes)


__all__ = [
    "AgentBlock",
    "Block",
    "LlmBlock",
    "Runtime",
    "ToolBlock",
    "Tracing",
    "agent",
    "install",
    "installed",
    "llm",
    "stream",
    "tool",
]
