"""The callback handler: it says what has begun and what has ended, and never fails a run but for a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from langchain_core.caches import BaseCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import get_llm_cache
from langchain_core.outputs import LLMResult
from langchain_core.tracers.context import register_configure_hook

from ... import observe
from ...blocks import surrounding
from ...events import CacheHit, CacheMiss, DomainEvent
from ...invocation import Boundary
from ..losses import Shielded
from . import mapping
from .messages import answer, plain, question
from .places import Place, calling
from .runs import Run, Runs, tell

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

_UNSEEN = Shielded("a callback of LangChain could not be observed")

T = TypeVar("T")

#: What graphs are named that have been given no name.
_NAMELESS = "LangGraph"
#: Steps that stand alone so often that a tree for each would only be in the way.
_NO_AGENTS = frozenset(("prompt", "parser"))
_STREAM = "gen_ai.request.stream"


class AgentbusHandler(BaseCallbackHandler):
    """Observes every run of this process. Runs its callbacks in the code that they tell of, async or not."""

    run_inline = True
    #: So that a budget that is to stop a run can; everything else of ours is kept from it.
    raise_error = True

    def __init__(self) -> None:
        self.runs = Runs()

    # Configurations are copied and pickled by programs, with the handlers in them.

    def __copy__(self) -> AgentbusHandler:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AgentbusHandler:
        return self

    def __reduce__(self) -> Any:
        return the_handler, ()

    # -- chains and graphs ---------------------------------------------------------------------------------------------

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        with _UNSEEN:
            place = calling()
            if not self._is_agent(place, parent_run_id, kwargs):
                self.runs.join(run_id, parent_run_id, place)
                return
            said = metadata or {}
            name = self._agent_name(kwargs.get("name"), parent_run_id, said)
            block = observe.agent(
                name,
                conversation_id=mapping.conversation_id(said),
                input=_as_far_as_told(_asked, inputs),
                **{"langchain.run_id": str(run_id)},
            )
            self.runs.begin(run_id, parent_run_id, "agent", lambda _: block, place)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            run = self.runs.get(run_id)
            if run is None or run.kind != "agent":
                self.runs.end(run_id)
                return
            # A chain whose stream is left early tells its end as if nothing were amiss, before its model is told.
            left = run.is_generator and self.runs.has_calls_of(run)
            said = _as_far_as_told(answer, outputs)
            self.runs.end(run_id, output=said, outcome="cancelled" if left else None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            run = self.runs.get(run_id)
            if run is None:
                return
            if mapping.is_interrupt(error):
                run.block.record(**{"langgraph.interrupted": True})
            to = mapping.handed_over_to(error)
            if to is not None and run.kind == "agent":
                name = run.block.invocation.agent
                tell(run.block, DomainEvent(name="agent.handoff", data={"from": name, "to": to}))
            self.runs.end(run_id, None if mapping.is_control_flow(error) else error)

    def _is_agent(self, place: Place, parent: UUID | None, said: Mapping[str, Any]) -> bool:
        if place.is_graph:
            return True
        if self.runs.get(parent) is not None or said.get("run_type") in _NO_AGENTS:
            return False
        outer = surrounding()
        return outer is None or isinstance(outer, Boundary)

    def _agent_name(self, name: Any, parent: UUID | None, metadata: Mapping[str, Any]) -> str:
        outer = self.runs.get(parent)
        if name in (None, _NAMELESS) and outer is not None and outer.kind == "step":
            name = metadata.get("langgraph_node") or name
        return str(name or "chain")

    # -- models --------------------------------------------------------------------------------------------------------

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        with _UNSEEN:
            asked = messages[0] if messages else []
            self._ask(
                run_id,
                parent_run_id,
                calling(),
                lambda scene, **given: observe.llm(
                    messages=_as_far_as_told(scene.conversation.render, asked), messages_count=len(asked), **given
                ),
                serialized,
                metadata or {},
                kwargs,
            )

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        with _UNSEEN:
            asked = [{"role": "user", "parts": [{"type": "text", "content": prompt}]} for prompt in prompts]
            self._ask(
                run_id,
                parent_run_id,
                calling(),
                lambda _, **given: observe.llm(messages=asked, operation="text_completion", **given),
                serialized,
                metadata or {},
                kwargs,
            )

    def _ask(
        self,
        run_id: UUID,
        parent: UUID | None,
        place: Place,
        make: Any,
        serialized: dict[str, Any] | None,
        metadata: Mapping[str, Any],
        said: Mapping[str, Any],
    ) -> None:
        params = said.get("invocation_params") or {}
        streams = "stream" in place.name
        given = {
            "model": mapping.model(metadata, params, serialized),
            "provider": mapping.provider(metadata),
            "parameters": mapping.parameters(metadata, params),
            "stream": True if streams else None,
        }
        # In a batch several begin here before the first one ends; then none is current.
        where = place if said.get("batch_size", 1) == 1 else place.shared()
        run = self.runs.begin(run_id, parent, "llm", lambda scene: make(scene, **given), where)
        if run is not None:
            run.streams = streams
            run.cached = not streams and _asks_a_cache(place.local.get("self"))
            self.runs.watch(run_id, place)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            self._first_chunk(self.runs.get(run_id))

    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            self._first_chunk(self.runs.get(run_id))

    def _first_chunk(self, run: Run | None) -> None:
        if run is None or not isinstance(run.block, observe.LlmBlock):
            return
        run.block.first_chunk()
        if not run.streams:  # a model that is asked for a whole answer streams where somebody listens to its graph
            run.streams = True
            run.block.record(**{_STREAM: True})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            run = self.runs.get(run_id)
            if run is None:
                return
            fields = _as_far_as_told(mapping.answered, response) or {}
            if run.cached and fields:
                if mapping.was_cached(response):
                    saved = (fields["input_tokens"] or 0) + (fields["output_tokens"] or 0)
                    tell(run.block, CacheHit(cache_type="langchain", tokens_saved=saved))
                    fields = {"messages": fields["messages"], "langchain.cache_hit": True}
                else:
                    tell(run.block, CacheMiss(cache_type="langchain"))
            self.runs.end(run_id, **fields)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            response = kwargs.get("response")
            has_begun = isinstance(response, LLMResult) and response.generations
            fields = _as_far_as_told(mapping.answered, response) if has_begun else None
            self.runs.end(run_id, error, **(fields or {}))

    def on_retry(self, retry_state: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            run = self.runs.get(run_id)
            if run is not None:
                tell(run.block, DomainEvent(name="retry", data={"attempt": int(retry_state.attempt_number)}))

    # -- tools ---------------------------------------------------------------------------------------------------------

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        with _UNSEEN:
            place = calling()
            name = (serialized or {}).get("name") or kwargs.get("name") or "tool"
            call_id = kwargs.get("tool_call_id") or place.local.get("tool_call_id")  # 1.0 keeps it back
            self.runs.begin(
                run_id,
                parent_run_id,
                "tool",
                lambda scene: observe.tool(
                    name,
                    tool_call_id=scene.tool_call_id(call_id),
                    arguments=input_str if inputs is None else _as_far_as_told(plain, inputs),
                ),
                place,
            )
            self.runs.watch(run_id, place)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            self.runs.end(run_id, **(_as_far_as_told(mapping.returned, output) or {}))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            run = self.runs.get(run_id)
            if run is not None and mapping.is_interrupt(error):
                run.block.record(**{"langgraph.interrupted": True})
            self.runs.end(run_id, None if mapping.is_control_flow(error) else error)

    # -- retrievers ----------------------------------------------------------------------------------------------------

    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        with _UNSEEN:
            place = calling()
            self.runs.join(run_id, parent_run_id, place)
            self.runs.watch(run_id, place)

    def on_retriever_end(self, documents: Sequence[Any], *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            self._retrieved(run_id, {"documents": len(documents)})

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with _UNSEEN:
            self._retrieved(run_id, {"error_type": type(error).__name__})

    def _retrieved(self, run_id: UUID, data: dict[str, Any]) -> None:
        run, runtime = self.runs.get(run_id), observe.installed()
        self.runs.end(run_id)
        event = DomainEvent(name="retrieval", data=data)
        if run is not None:
            tell(run.block, event)
        elif self.runs.on and runtime is not None:
            runtime.emit(event)


def _as_far_as_told(tell_of: Callable[[Any], T], what: Any) -> T | None:
    """What is said of it; None where that fails, for what it is said of begins and ends all the same."""
    with _UNSEEN:
        return tell_of(what)
    return None


def _asked(inputs: Any) -> Any:
    """A run's input; a chain that is streamed has not read its own yet, and tells an empty one."""
    if isinstance(inputs, dict) and list(inputs) == ["input"] and isinstance(inputs["input"], str):
        return inputs if inputs["input"] else None
    return question(inputs)


def _asks_a_cache(model: Any) -> bool:
    cache = getattr(model, "cache", None)
    return isinstance(cache, BaseCache) or (cache is not False and get_llm_cache() is not None)


_handler = AgentbusHandler()
#: LangChain reads its hooks from such variables, and has no way to take one back: what is attached stays, and sleeps.
_hook: ContextVar[AgentbusHandler | None] = ContextVar("otel_agentbus.langchain", default=_handler)
_registered: list[ContextVar[AgentbusHandler | None]] = []


def the_handler() -> AgentbusHandler:
    """The one handler of this process."""
    return _handler


class Observing:
    """The handler, attached to every run, until `off()`."""

    #: Other handlers (LangSmith's, the application's own) go on beside ours; there is nothing to chain.
    chained = False

    def off(self) -> None:
        """Observe nothing new; runs that have begun are observed to their end."""
        _handler.runs.on = False


def instrument() -> Observing:
    """Observe every graph, chain, model and tool of this process."""
    if not _registered:
        register_configure_hook(_hook, inheritable=True)
        _registered.append(_hook)
    _handler.runs.on = True
    return Observing()


__all__ = ["AgentbusHandler", "Observing", "instrument", "the_handler"]
