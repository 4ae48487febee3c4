"""Model and tool calls as blocks: they belong to a run, or stand alone as the root of their own tree."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .blocks import _NEW, _NOWHERE, Block, _failed, clock, recordable_in
from .errors import BudgetExceeded
from .events import Event, LlmRequest, LlmResponse, Outcome, ToolCall, ToolCallStart
from .invocation import Boundary, Frame, Invocation, mint_call_id, own_id, text, tool_call_name

if TYPE_CHECKING:
    from collections.abc import Callable

# A model call's events are built field by field, not by their constructors: with some thirty keywords those take three
# times as long (1.1 us against 0.36), twice on each call's way. Each is written out in one place of its own, envelope
# and all: the interpreter learns where a field is for one class at each place. A test holds that no field is forgotten.
_new = object.__new__
_begin = Block.__init__


class CallBlock(Block):
    """What model and tool calls share: they belong to a run, or stand alone as the root of their own tree."""

    __slots__ = ("_run", "_within")

    _run: Block | None
    _within: str | None

    def _place(self, frame: Frame | None) -> None:
        given = run = self._run
        id = self.id
        boundary = None
        if run is None or not run._state:  # a run that has not begun has no place yet
            self._run = run_of(frame)
            if isinstance(frame, Boundary):
                boundary, frame = frame, None
        elif frame is None or frame.invocation is not run.invocation:
            frame = run
        if not self.id:
            self.id = mint_call_id()
        self.call = "llm:" + self.id if self.kind == "llm" else tool_call_name(self.id)
        if frame is None:
            alone = Invocation("", root_id=self.id)
            self.invocation = alone if boundary is None else replace(boundary.invocation, root_id=self.id)
        else:
            self.invocation = frame.invocation
            self._within = frame.call
        runtime = self.runtime
        if runtime is not None:
            try:
                gate = runtime.gate
            except AttributeError:  # a program's own runtime, made before there were gates
                gate = None
            if gate is not None:
                self._ask(gate, given, id)
        if boundary is not None or self.invocation.remote:
            self._say_whence(boundary, frame)

    def _say_whence(self, boundary: Boundary | None, frame: Frame | None) -> None:
        """Have the start event tell what its span must know, and no id says."""
        if boundary is not None and boundary.links:
            self._attributes = {**self._attributes, "agentbus.span": {"links": boundary.links}}
        elif is_elsewhere(frame):
            self._attributes = {**self._attributes, "agentbus.span": {"parent_remote": True}}

    def _ask(self, gate: Callable[[Any], None], run: Block | None, id: str) -> None:
        """Begin only where the gate lets it pass; else be again as it was, with its run and id as they were given."""
        given = (self.model, self.provider)
        caller = self._run
        if caller is not None and self.kind == "llm":
            self.model = self.model or caller.model
            self.provider = self.provider or caller.provider
        try:
            gate(self)
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, BudgetExceeded):
                _failed("place")  # what goes wrong in asking must not reach the program
                return
            self._withdraw(run, id, *given)
            raise

    def _withdraw(self, run: Block | None, id: str, model: str | None, provider: str | None) -> None:
        self.id, self.model, self.provider = id, model, provider
        self.invocation = _NOWHERE
        self.call = self.runtime = self._within = None
        self._run = run
        self._state = _NEW

    def _stand(self, event: Event) -> None:
        """Give the event its envelope."""
        lineage = self.invocation
        event.time_ns = self.started_ns
        event.source = event.seq = None
        event.invocation_id = lineage.id or None
        event.parent_invocation_id = lineage.parent_id
        event.root_invocation_id = lineage.root_id
        event.parent_call_id = self._within
        event.attempt = lineage.attempt
        event.agent = lineage.agent
        event.channel = lineage.channel
        event.conversation_id = lineage.conversation_id
        event.trace = lineage.trace
        event.tracestate = lineage.tracestate


class LlmBlock(CallBlock):
    """One call of a model."""

    kind = "llm"
    recordable = recordable_in(LlmResponse) - {"call_id"}

    __slots__ = ("_first_chunk", "_messages", "_messages_count", "_operation", "_parameters", "_stream")

    _first_chunk: float | None

    def __init__(
        self,
        run: Block | None,
        model: str | None,
        provider: str | None,
        call_id: str | None,
        operation: str,
        stream: bool | None,
        messages: Any,
        messages_count: int | None,
        parameters: dict[str, Any] | None,
        attributes: dict[str, Any],
    ) -> None:
        _begin(self, "" if call_id is None else own_id(text(call_id)), provider, model, attributes)
        self._run = run
        self._within = None
        self._first_chunk = None
        self._operation = operation
        self._stream = stream
        self._messages = messages
        self._messages_count = messages_count
        self._parameters = parameters

    def first_chunk(self) -> None:
        """The first chunk of the answer is here; called by `stream`, or by hand. Later calls have no effect."""
        if self._first_chunk is None and self._state:
            self._first_chunk = (clock.perf_counter_ns() - self._began) / 1e9

    def _starting(self) -> Event:
        caller = self._run
        if caller is not None:
            self.model = self.model or caller.model
            self.provider = self.provider or caller.provider
        run = self.invocation
        event = _new(LlmRequest)
        event.time_ns = self.started_ns
        event.source = event.seq = None
        event.invocation_id = run.id or None
        event.parent_invocation_id = run.parent_id
        event.root_invocation_id = run.root_id
        event.parent_call_id = self._within
        event.attempt = run.attempt
        event.agent = run.agent
        event.channel = run.channel
        event.conversation_id = run.conversation_id
        event.trace = run.trace
        event.tracestate = run.tracestate
        event.attributes = self._attributes
        event.event = "llm.request"
        event.model_provider = self.provider or ""
        event.model = self.model or ""
        event.messages_count = _count(self._messages) if self._messages_count is None else self._messages_count
        event.call_id = self.id
        event.operation = self._operation
        event.stream = self._stream
        event.messages = self._messages
        event.parameters = self._parameters
        return event

    def _ending(self, duration: float, fields: dict[str, Any]) -> Event:
        self._messages = self._parameters = None  # contexts copied in here may live for long
        if self._first_chunk is not None:
            fields.setdefault("time_to_first_chunk", self._first_chunk)
        run = self.invocation
        event = _new(LlmResponse)
        event.time_ns = None
        event.source = event.seq = None
        event.invocation_id = run.id or None
        event.parent_invocation_id = run.parent_id
        event.root_invocation_id = run.root_id
        event.parent_call_id = self._within
        event.attempt = run.attempt
        event.agent = run.agent
        event.channel = run.channel
        event.conversation_id = run.conversation_id
        event.trace = run.trace
        event.tracestate = run.tracestate
        event.attributes = {}
        event.event = "llm.response"
        event.model_provider = self.provider or ""
        event.model = self.model or ""
        event.duration = duration
        event.success, event.outcome = (True, "ok") if _VERDICT.isdisjoint(fields) else verdict(fields)
        event.error_type = event.error_message = None
        event.input_tokens = event.output_tokens = None
        event.cache_read_input_tokens = event.cache_write_input_tokens = event.reasoning_output_tokens = None
        event.usage = event.response_model = event.response_id = event.finish_reasons = None
        event.time_to_first_chunk = event.service_tier = event.cost_usd = None
        event.call_id = self.id
        event.messages = None
        for name, value in fields.items():
            if value is not None:
                setattr(event, name, value)
        return event

    def _fresh(self) -> LlmBlock:
        return LlmBlock(
            self._run,
            self.model,
            self.provider,
            None,
            self._operation,
            self._stream,
            self._messages,
            self._messages_count,
            self._parameters,
            self._attributes,
        )


class ToolBlock(CallBlock):
    """One call of a tool. An agent that runs inside it is nested under it."""

    kind = "tool"
    recordable = recordable_in(ToolCall) - {"tool", "tool_call_id"}

    __slots__ = ("_arguments", "name")

    def __init__(
        self,
        run: Block | None,
        name: str,
        /,
        *,
        tool_call_id: str | None = None,
        arguments: Any = None,
        **attributes: Any,
    ) -> None:
        _begin(self, "" if tool_call_id is None else own_id(text(tool_call_id)), None, None, attributes)
        self._run = run
        self._within = None
        self.name = text(name)
        self._arguments = arguments

    def _starting(self) -> Event:
        event = ToolCallStart(tool=self.name, tool_call_id=self.id, arguments=self._arguments)
        event.attributes = self._attributes
        self._stand(event)
        return event

    def _ending(self, duration: float, fields: dict[str, Any]) -> Event:
        success, outcome = verdict(fields)
        event = ToolCall(tool=self.name, tool_call_id=self.id, duration=duration, success=success, outcome=outcome)
        event.arguments, self._arguments = self._arguments, None
        self._stand(event)
        for name, value in fields.items():
            if value is not None:
                setattr(event, name, value)
        return event

    def _fresh(self) -> ToolBlock:
        return ToolBlock(self._run, self.name, arguments=self._arguments, **self._attributes)


#: What decides of a call's success; a call of which none of it is told went well.
_VERDICT = frozenset(("success", "outcome", "error_type", "error_message"))


def verdict(fields: dict[str, Any]) -> tuple[bool, Outcome]:
    """Success and outcome, taken out of what was recorded: the outcome decides, then the success, then the error."""
    success, outcome = fields.pop("success", None), fields.pop("outcome", None)
    if outcome is None:
        if success is None:
            success = fields.get("error_type") is None and fields.get("error_message") is None
        outcome = "ok" if success else "error"
    return outcome == "ok", outcome


def run_of(frame: Frame | None) -> Block | None:
    """The agent block to which this frame belongs, if that runs in this process."""
    id = "" if frame is None else frame.invocation.id
    while frame is not None:
        if isinstance(frame, Block) and frame.kind == "agent":
            return frame if frame.invocation.id == id else None
        frame = frame.parent
    return None


def is_elsewhere(frame: Frame | None) -> bool:
    """Whether it is a run that goes on in another process, and no call in it that was begun in this one."""
    while frame is not None and not isinstance(frame, Block):
        if frame.parent is None or frame.invocation is not frame.parent.invocation:
            return frame.invocation.remote
        frame = frame.parent  # this was a mark, under which something lasts
    return False


def _count(messages: Any) -> int:
    return len(messages) if isinstance(messages, (list, tuple)) else int(messages is not None)
