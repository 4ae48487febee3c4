"""The SDK's own traces, heard by a processor of ours beside those that are there: its spans become our blocks.

| span | becomes |
|---|---|
| task | the run's first agent, from the run's first moment to its last |
| agent | nothing more for the first one; for one that was handed over to, an agent under the first |
| response, generation | a model call, which its hooks have begun |
| function | a tool call |
| handoff, guardrail | a domain event |
| turn, mcp_tools, custom, speech ... | nothing: what is inside belongs to what is around |
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from agents import add_trace_processor
from agents.tool import FunctionToolResult
from agents.tracing import Span, Trace, TracingProcessor, get_current_span, get_current_trace, get_trace_provider

from ... import observe
from ...callbacks import OpenBlocks
from ...events import DomainEvent
from ...observe import LlmBlock
from ..losses import Shielded
from ..plain import structured
from . import mapping, messages
from .calls import MAX_TURNS, Call, Kept, failure_of
from .mapping import Asked
from .runs import Run, current_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...observe import AgentBlock

_log = logging.getLogger("otel_agentbus.adapters")

_UNSEEN = Shielded("a span of the Agents SDK could not be observed")
_NO_OP = "no-op"
#: The workflow's name where the program gives none.
_UNNAMED = "Agent workflow"
_WITHHELD = "withheld by trace_include_sensitive_data=False"


class Observer(TracingProcessor):
    """Hears every span of the process, and what the hooks of its runs tell beside; silent while it is off."""

    def __init__(self) -> None:
        self.blocks = OpenBlocks()
        self._traces: Kept[None] = Kept()
        #: By the span in which a model is asked: what the run's hooks have told of it.
        self._calls: Kept[Call] = Kept()
        #: By the span of a model call: the key of its block, and the call.
        self._answering: Kept[tuple[Any, Call | None]] = Kept()
        #: By the span of a tool call: whether its tool was called.
        self._tools: Kept[bool] = Kept()
        #: By span: the exception that was being handled when it began, and the last one that it was told of.
        self._handled: Kept[BaseException] = Kept()
        self._raised: Kept[BaseException] = Kept()
        self._heard_by: Any = None
        self._warned = False
        self._begins: dict[str, Callable[[Span[Any]], None]] = {
            "task": self._task_begins,
            "agent": self._agent_begins,
            "response": self._model_call_begins,
            "generation": self._model_call_begins,
            "function": self._tool_begins,
        }
        self._ends: dict[str, Callable[[Span[Any], BaseException | None], None]] = {
            "task": self._block_ends,
            "agent": self._block_ends,
            "response": self._model_call_ends,
            "generation": self._model_call_ends,
            "function": self._tool_ends,
            "handoff": self._handed_over,
            "guardrail": self._guarded,
        }

    def listen(self) -> None:
        """Be among the SDK's processors; a program that has set its own since has left us out."""
        provider = get_trace_provider()
        heard = getattr(getattr(provider, "_multi_processor", None), "_processors", None)
        known = provider is self._heard_by if heard is None else any(processor is self for processor in heard)
        if not known:
            add_trace_processor(self)
            self._heard_by = provider

    # -- what the SDK calls --------------------------------------------------------------------------------------------

    def on_trace_start(self, trace: Trace) -> None:
        """A trace begins: of one run, or of all that the program does in it."""
        if self.blocks.on:
            with _UNSEEN:
                self._traces.keep(trace.trace_id, None)

    def on_trace_end(self, trace: Trace) -> None:
        """A trace is over."""
        self._traces.pop(trace.trace_id, None)

    def on_span_start(self, span: Span[Any]) -> None:
        """Something begins, here and now: the SDK calls this in the code that does it."""
        with _UNSEEN:
            if not self._is_ours(span):
                return
            handled = sys.exc_info()[1]
            if handled is not None:
                self._handled.keep(span.span_id, handled)
            begin = self._begins.get(span.span_data.type)
            if begin is None:
                self.blocks.join(span.span_id, span.parent_id)
            else:
                begin(span)

    def on_span_end(self, span: Span[Any]) -> None:
        """It has ended, however it did: an exception that is on its way out is the one that is being handled here."""
        with _UNSEEN:
            error = sys.exc_info()[1]
            if error is self._handled.pop(span.span_id, None):
                error = None
            call = self._calls.pop(span.span_id, None)
            if call is not None:  # a model of the program's own that has failed: nothing has told its end
                self._end(call, error, {})
            key, _ = self._answering.get(span.span_id, (None, None))
            end = self._ends.get(span.span_data.type)
            try:
                if end is not None:
                    end(span, error)
            except BaseException:
                self.blocks.end(span.span_id)
                self._end(key, error, {})  # what it says could not be read, but it is over
                raise
            finally:
                self._end(span.span_id, error, {})
                self._raised.pop(span.span_id, None)

    def shutdown(self) -> None:
        """Nothing: the bus has an end of its own."""

    def force_flush(self) -> None:
        """Nothing: the bus has a flush of its own."""

    def _is_ours(self, span: Span[Any]) -> bool:
        """Whether it belongs to what is observed; not to a run that had begun before."""
        known = self.blocks.get(span.parent_id) is not None
        return known or (self.blocks.on and (current_run.get() is not None or span.trace_id in self._traces))

    def _end(self, key: Any, error: BaseException | None, fields: dict[str, Any]) -> None:
        """End a block; without the text of its error where the program keeps that out of its traces."""
        run = current_run.get()
        if run is not None and not run.content and (isinstance(error, Exception) or "error_message" in fields):
            fields["error_message"] = _WITHHELD
        self.blocks.end(key, error, **fields)

    # -- agents --------------------------------------------------------------------------------------------------------

    def _task_begins(self, span: Span[Any]) -> None:
        run = current_run.get()
        if run is None or run.root is not None:
            self.blocks.join(span.span_id, span.parent_id)
            return
        run.root = span.span_id
        self.blocks.begin(span.span_id, _agent_block(run, run.agent.name), parent=span.parent_id)

    def _agent_begins(self, span: Span[Any]) -> None:
        run, name = current_run.get(), span.span_data.name
        first = run is not None and run.root is not None and run.root == span.parent_id
        if run is not None and first and not run.entered and name == run.agent.name:
            run.entered = True
            self.blocks.join(span.span_id, run.root)
        else:
            self.blocks.begin(span.span_id, _agent_block(run, name), parent=span.parent_id)

    def _block_ends(self, span: Span[Any], error: BaseException | None) -> None:
        block = self.blocks.get(span.span_id)
        if block is not None and error is None and _gives_up(span):
            block.record(**failure_of(span, None, None))
        self._end(span.span_id, error, {})

    def agent_begins(self, run: Run, agent: Any) -> None:
        """From a run's hooks: an agent is about to work."""
        run.agents[agent.name] = agent
        span = get_current_span()
        if (span is None or span.span_id == _NO_OP) and self.blocks.on and not self._warned:
            self._warned = True
            _log.warning(
                "Tracing of the Agents SDK is switched off, so its agents are not observed. To keep it from uploading"
                " only, call agents.set_trace_processors([]) instead."
            )

    def agent_answers(self, run: Run, output: Any) -> None:
        """From a run's hooks: an agent has its final output."""
        run.answered = True
        span = get_current_span()
        block = None if span is None else self.blocks.get(span.span_id)
        if block is not None and block.kind == "agent" and run.content:
            block.record(output=messages.plain(output))

    # -- model calls ---------------------------------------------------------------------------------------------------

    def model_is_asked(self, run: Run, agent: Any, instructions: Any, items: Any) -> None:
        """From a run's hooks: a model is about to be asked, by this agent, inside the span that is current."""
        span = get_current_span()
        if span is None or self.blocks.get(span.span_id) is None:
            return
        asked, content = Asked(None, None, None), None
        with _UNSEEN:
            asked = mapping.asked(agent, run.config)
        with _UNSEEN:
            content = messages.conversation(instructions, items) if run.content else None
        count = len(items) if isinstance(items, list) else 1
        call = Call(asked, content, count, streamed=run.streamed, content=run.content)
        self._calls.keep(span.span_id, call)
        self.blocks.begin(call, call.block(), parent=span.span_id, current=False)

    def model_has_answered(self, run: Run, response: Any) -> None:
        """From a run's hooks: the answer is there. A model of the program's own may have told nothing of it."""
        span = get_current_span()
        call = None if span is None else self._calls.pop(span.span_id, None)
        if call is not None:
            fields: dict[str, Any] = {}
            with _UNSEEN:
                fields = mapping.of_model_response(response, content=run.content)
            self.blocks.end(call, None, **fields)

    def chunk_arrives(self) -> None:
        """From a streamed run: its loop has got an event of the model's, in the place where it asks the model."""
        span = get_current_span()
        if span is None:
            return
        key: Any = self._answering.get(span.span_id, (None,))[0] or self._calls.get(span.span_id)
        block = self.blocks.get(key)
        if isinstance(block, LlmBlock):
            block.first_chunk()

    def _model_call_begins(self, span: Span[Any]) -> None:
        call = self._calls.get(span.parent_id or "")
        if call is None:  # a model that the program itself asks, in a trace of its own
            key: Any = ("llm", span.span_id)
            self.blocks.begin(key, Call.of_span(span.span_data).block(), parent=span.parent_id, current=False)
        else:
            key = call
            if self.blocks.get(call) is None:  # tried again
                self.blocks.begin(call, call.block(), parent=span.parent_id, current=False)
        self._answering.keep(span.span_id, (key, call))
        self.blocks.join(span.span_id, key, current=call is not None)

    def _model_call_ends(self, span: Span[Any], error: BaseException | None) -> None:
        key, call = self._answering.pop(span.span_id, (None, None))
        if key is None:
            return
        self.blocks.end(span.span_id)  # first: it was made current last
        data = span.span_data
        content = call is None or call.content
        of_span = mapping.of_response_span if data.type == "response" else mapping.of_generation_span
        fields = of_span(data, content=content)
        told = fields.get("input_tokens") is not None
        if told and error is not None and not isinstance(error, Exception):
            error = None  # the consumer has left after the last chunk
        elif error is not None or span.error:
            fields |= failure_of(span, error, self._raised.get(span.span_id))
        elif call is not None and not told:
            return  # its hooks will tell of its usage
        if call is None:
            fields |= _late_name(data)
        self._end(key, error, fields)

    # -- tool calls ----------------------------------------------------------------------------------------------------

    def _tool_begins(self, span: Span[Any]) -> None:
        """Not yet: the id of the call and its arguments are told next, in the same place."""
        self._tools.keep(span.span_id, False)
        if current_run.get() is None:
            self._begin_tool(span, None, None, current=True)

    def tool_is_prepared(self, context: Any) -> None:
        """A tool's context was made: here its call has its id and its arguments, and here it will run."""
        span = get_current_span()
        if span is not None and span.span_id in self._tools and self.blocks.get(span.span_id) is None:
            self._begin_tool(span, context.tool_call_id, context.tool_arguments, current=True)

    def tool_is_called(self, context: Any) -> None:
        """From a run's hooks: a tool is about to be called. Those that are no functions are told of only here."""
        span = get_current_span()
        if span is None or span.span_id not in self._tools:
            return
        self._tools[span.span_id] = True
        if self.blocks.get(span.span_id) is None:
            id, arguments = getattr(context, "tool_call_id", None), getattr(context, "tool_arguments", None)
            self._begin_tool(span, id, arguments, current=False)

    def _begin_tool(self, span: Span[Any], call_id: Any, arguments: Any, *, current: bool) -> None:
        run = current_run.get()
        given = structured(arguments) if run is None or run.content else None
        id = call_id if run is None else run.tool_call_id(call_id)
        block = observe.tool(span.span_data.name, tool_call_id=id, arguments=given)
        self.blocks.begin(span.span_id, block, parent=span.parent_id, current=current)

    def _tool_ends(self, span: Span[Any], error: BaseException | None) -> None:
        called = self._tools.pop(span.span_id, True)
        data = span.span_data
        waits = data.output is None or isinstance(data.output, FunctionToolResult)
        fields: dict[str, Any] = {} if waits else {"result": messages.plain(data.output)}
        server = (data.mcp_data or {}).get("server")
        if isinstance(server, str):
            fields["openai_agents.mcp.server"] = server
        if not called and error is None and current_run.get() is not None and (span.error or waits):
            fields["outcome"] = "cancelled"  # it waits for an approval, or was refused one
        elif error is not None or span.error:
            raised = self._raised.get(span.span_id)
            fields |= failure_of(span, error, raised)
            error = raised or error
        self._end(span.span_id, error, fields)

    def has_failed(self, span: Any) -> None:
        """A span is told of an error where that is caught: the tool's own, before it becomes an answer to the model."""
        error = sys.exc_info()[1]
        if error is not None and span.span_id in self._tools:
            self._raised.keep(span.span_id, error)

    # -- moments -------------------------------------------------------------------------------------------------------

    def _handed_over(self, span: Span[Any], error: BaseException | None) -> None:
        data = span.span_data
        _publish("agent.handoff", {"from": data.from_agent, "to": data.to_agent})

    def _guarded(self, span: Span[Any], error: BaseException | None) -> None:
        data = span.span_data
        _publish("agent.guardrail", {"name": data.name, "triggered": data.triggered})


def _agent_block(run: Run | None, name: str) -> AgentBlock:
    if run is None:
        return observe.agent(name)
    agent = run.agents.get(name)
    asked = mapping.asked(agent, run.config) if agent is not None else None
    trace = get_current_trace()
    attributes: dict[str, Any] = {}
    if agent is run.agent and not run.entered:
        attributes["openai_agents.trace_id"] = getattr(trace, "trace_id", None)
        workflow = getattr(trace, "name", None)
        if workflow != _UNNAMED:
            attributes["gen_ai.workflow.name"] = workflow
    return observe.agent(
        name,
        model=None if asked is None else asked.model,
        provider=None if asked is None else asked.provider,
        conversation_id=run.conversation_id(getattr(trace, "group_id", None)),
        instructions=mapping.instructions_of(agent) if run.content else None,
        input=run.text if run.content and not run.entered else None,
        **{key: value for key, value in attributes.items() if value is not None},
    )


def _gives_up(span: Span[Any]) -> bool:
    """Whether an error that the SDK has noted and not raised here ends the run: a streamed one raises it later."""
    run = current_run.get()
    told = span.error is not None and span.error.get("message") == MAX_TURNS
    return told and not (run is not None and run.answered)


def _late_name(data: Any) -> dict[str, Any]:
    """The name of a model that was asked without a run, and is known from its answer only."""
    response = getattr(data, "response", None)
    return {"model": getattr(response, "model", None)}


def _publish(name: str, data: dict[str, Any]) -> None:
    runtime = observe.installed()
    if runtime is not None:
        runtime.emit(DomainEvent(name=name, data=data))


__all__ = ["Observer"]
