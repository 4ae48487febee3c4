"""One run's model requests, tool calls, errors and completion, forwarded to an application's own event bus.

| event | when | data, beside `agent` and `run_id` |
|---|---|---|
| `llm_request` | a request is about to be sent | `request` (1, 2 ...), `provider`, `model` |
| `llm_response` | it has been answered, or has failed | `request`, `provider`, `model`, `success`, `duration_s`; \
`input_tokens`, `output_tokens`, `finish_reason`, `tool_calls`; or `outcome`, `error_type`, `error` |
| `llm_tool_call` | the model has called a tool | `tool`, `args` (a dict), `tool_call_id` |
| `llm_tool_result` | the call has been answered | `tool`, `tool_call_id`, `success`, `result`; or `outcome`, \
`error_type`, `error` |
| `llm_complete` | the run has its result | `tokens`, `input_tokens`, `output_tokens`, `requests`, `duration_s` |
| `llm_error` | the run has failed or was cancelled | the same, and `outcome`, `error_type`, `error` |

A run ends with exactly one of the last two. Only what happens in this run is forwarded, never its message history.
On a bus of this package (`publish=bus.publish`) `args`, `result` and `error` are content: handlers hear them, and no
sink sees them unless content is captured.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolCallPart,
    ToolReturn,
    ToolReturnPart,
)
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import RunContext

from ...blocks import describe
from ..losses import Shielded
from ..plain import plain
from .mapping import cause_of
from .outbox import Outbox, Publish

if TYPE_CHECKING:
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.tools import ToolDefinition

OutputT = TypeVar("OutputT")

_UNSEEN = Shielded("an event of a run could not be forwarded")


class ForwardEvents(AbstractCapability[Any]):
    """Forwards what happens in a run to `publish(type, data)`, sync or async; changes nothing about the run.

    For `agent.run_stream`, `agent.iter` and whole agents: `capabilities=[ForwardEvents(publish)]`. It registers no
    hook on events of the stream, so a run that does not stream stays one.
    """

    def __init__(self, publish: Publish, *, agent: str | None = None) -> None:
        super().__init__()
        self._publish = publish
        self._label = agent
        self._outbox = Outbox(publish)
        self._awaited = False
        self._agent = ""
        self._run_id: str | None = None
        self._requests = self._input = self._output = 0
        self._calls: dict[str, ToolCallPart] = {}

    def get_ordering(self) -> CapabilityOrdering:
        """Outermost, so that what is forwarded is what the program sees, recovered or not."""
        return CapabilityOrdering(position="outermost")

    async def for_run(self, ctx: RunContext[Any]) -> ForwardEvents:
        """An instance of its own for each run."""
        fresh = copy.copy(self)
        fresh._calls = {}
        fresh._agent = self._label or (ctx.agent.name if ctx.agent else None) or "agent"
        fresh._run_id = ctx.run_id
        return fresh

    # -- hooks ---------------------------------------------------------------------------------------------------------

    async def wrap_run(self, ctx: RunContext[Any], *, handler: Any) -> AgentRunResult[Any]:
        """The run as a whole."""
        began = time.perf_counter()
        try:
            result: AgentRunResult[Any] = await handler()
        except BaseException as error:
            data = self._totals(began) | _failure(error) | self._about()
            if self._awaited and not isinstance(error, Exception):
                self._outbox.keep_for_the_end("llm_error", data)
            else:
                self._outbox.put("llm_error", data)
            raise
        with _UNSEEN:
            self._settle(result.new_messages())
        self._put("llm_complete", **self._totals(began))
        return result

    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: Any
    ) -> ModelResponse:
        """One model request."""
        with _UNSEEN:
            self._settle(request_context.messages)
        self._requests += 1
        about: dict[str, Any] = {"request": self._requests}
        with _UNSEEN:
            model = request_context.model
            about |= {"provider": model.system, "model": model.model_name}
        self._put("llm_request", **about)
        began = time.perf_counter()
        try:
            response: ModelResponse = await handler(request_context)
        except BaseException as error:
            self._put("llm_response", **about, success=False, duration_s=time.perf_counter() - began, **_failure(error))
            raise
        with _UNSEEN:
            self._answered(response, about, time.perf_counter() - began)
        return response

    async def wrap_tool_execute(
        self, ctx: RunContext[Any], *, call: ToolCallPart, tool_def: ToolDefinition, args: Any, handler: Any
    ) -> Any:
        """One tool's execution."""
        try:
            result = await handler(args)
        except BaseException as error:
            self._failed(call, error)
            raise
        self._result(call, success=True, result=_plain(result))
        return result

    async def on_tool_validate_error(
        self, ctx: RunContext[Any], *, call: ToolCallPart, tool_def: ToolDefinition, args: Any, error: Any
    ) -> Any:
        """A call whose arguments are not what the tool takes."""
        self._failed(call, error)
        raise error

    # -- what is forwarded ---------------------------------------------------------------------------------------------

    def _put(self, kind: str, **data: Any) -> None:
        self._outbox.put(kind, data | self._about())

    def _about(self) -> dict[str, Any]:
        return {"agent": self._agent, "run_id": self._run_id}

    def _answered(self, response: ModelResponse, about: dict[str, Any], seconds: float) -> None:
        usage = response.usage
        self._input += usage.input_tokens
        self._output += usage.output_tokens
        calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
        self._put(
            "llm_response",
            **about,
            success=True,
            duration_s=seconds,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            finish_reason=response.finish_reason,
            tool_calls=len(calls),
        )
        for call in calls:
            self._calls[call.tool_call_id] = call
            self._put("llm_tool_call", tool=call.tool_name, args=_arguments(call), tool_call_id=call.tool_call_id)

    def _result(self, call: ToolCallPart, **data: Any) -> None:
        if self._calls.pop(call.tool_call_id, None) is not None:
            self._put("llm_tool_result", tool=call.tool_name, tool_call_id=call.tool_call_id, **data)

    def _failed(self, call: ToolCallPart, error: BaseException) -> None:
        self._result(call, success=False, **_failure(cause_of(error)))

    def _settle(self, messages: Sequence[ModelMessage]) -> None:
        """Forward the answers to calls that no hook has seen: of unknown tools, and of output tools."""
        if not self._calls:
            return
        for message in messages:
            if isinstance(message, ModelRequest):
                for part in message.parts:
                    if isinstance(part, ToolReturnPart) and part.tool_call_id in self._calls:
                        self._answer(self._calls[part.tool_call_id], part)

    def _answer(self, call: ToolCallPart, part: ToolReturnPart) -> None:
        outcome = getattr(part, "outcome", "success")
        if outcome == "success":
            self._result(call, success=True, result=_plain(part.content))
        else:
            self._result(call, success=False, outcome="error", error_type=outcome, error=part.model_response_str())

    def _totals(self, began: float) -> dict[str, Any]:
        return {
            "tokens": self._input + self._output,
            "input_tokens": self._input,
            "output_tokens": self._output,
            "requests": self._requests,
            "duration_s": time.perf_counter() - began,
        }


def _failure(error: BaseException) -> dict[str, Any]:
    outcome, kind, message = describe(error)
    return {"outcome": outcome, "error_type": kind, "error": message}


def _arguments(call: ToolCallPart) -> dict[str, Any]:
    try:
        return call.args_as_dict()
    except ValueError:  # not what JSON calls an object: the tool itself will refuse it
        return {"INVALID_JSON": call.args}


def _plain(result: Any) -> Any:
    """A tool's result as an event bus can carry it: what JSON can say, without the bytes of files."""
    if isinstance(result, ToolReturn):
        result = result.return_value
    if isinstance(result, BinaryContent):
        return {"media_type": result.media_type, "bytes": len(result.data)}
    return plain(result)


async def trace_agent(
    agent: AbstractAgent[Any, OutputT], publish: Publish, *args: Any, **kwargs: Any
) -> AgentRunResult[OutputT]:
    """Run `agent.run(*args, **kwargs)` and forward what happens in it to `publish(type, data)`, as it happens.

    `publish` may be sync (`bus.publish` say; called in place, so it must not block) or async (awaited beside the run,
    in order, each for 5 s at most; the end of the run waits 1 s for the last ones). That it fails or hangs is counted
    and logged once a minute, and never reaches the run. Gives back the run's own result; the events: see this module.
    """
    return await traced(agent, publish, agent.name, args, kwargs)


async def traced(
    agent: AbstractAgent[Any, OutputT],
    publish: Publish,
    label: str | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> AgentRunResult[OutputT]:
    """`trace_agent`, with the name that the events give the agent."""
    forwarding = ForwardEvents(publish, agent=label)
    forwarding._awaited = True
    capabilities = [*(kwargs.pop("capabilities", None) or ()), forwarding]
    kwargs.setdefault("infer_name", False)  # it would find the name of a variable of ours
    wait = False
    try:
        result: AgentRunResult[OutputT] = await agent.run(*args, capabilities=capabilities, **kwargs)
        wait = True
        return result
    except Exception:
        wait = True
        raise
    finally:
        await forwarding._outbox.finish(wait=wait)  # who cancels the run is not kept waiting


async def trace_agent_to_bus(
    agent: AbstractAgent[Any, OutputT], publish: Publish, *args: Any, **kwargs: Any
) -> OutputT:
    """As `trace_agent`, giving back the run's output alone."""
    return (await trace_agent(agent, publish, *args, **kwargs)).output
