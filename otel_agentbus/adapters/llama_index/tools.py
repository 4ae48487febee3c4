"""Tool calls and embeddings: functions that call each other before one of them does the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import observe
from ...blocks import Block
from ...events import CacheHit, CacheMiss
from ...invocation import top
from ..losses import Shielded
from .kinds import model_of, provider_of
from .mapping import plain
from .places import Places, Span
from .runs import Step, is_waiting, told_output

_UNSEEN = Shielded("a tool's result in LlamaIndex could not be observed")


class Tools:
    """The tool calls that are open, with the functions that have been called for each."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._open: dict[str, tuple[str, set[tuple[type, str]]]] = {}

    def know(self, block: observe.ToolBlock) -> None:
        """An agent has called this tool, whose functions will be told of next."""
        self._open[block.id] = (block.name, set())

    def forget(self, block: Block) -> None:
        """The call is over."""
        self._open.pop(block.id, None)

    def begin(self, id: str, parent: Span | None, method: str, instance: Any, arguments: Mapping[str, Any]) -> Span:
        """A function of a tool: a call of its own, or a step on the way of the one that is current here."""
        name = str(instance.metadata.name or type(instance).__name__)
        function = (type(instance), method)
        here = top()
        known = self._open.get(here.id) if isinstance(here, Block) and here.kind == "tool" else None
        if known is not None and known[0] == name and function not in known[1]:
            known[1].add(function)
            return Inside(id, parent)
        block = observe.tool(name, arguments=_arguments(arguments))
        self._places.begin(id, block)
        self._open[block.id] = (name, {function})
        return ToolSpan(id, parent, block, self, self._places)


class Inside(Span):
    """A function on the way of a tool call that was told of before."""

    __slots__ = ()

    def drop(self, error: BaseException) -> None:
        """The tool has raised, which its agent will make an answer."""
        if isinstance(self.parent, Step):
            self.parent.raised = error


class ToolSpan(Span):
    """One call of a tool that no agent has announced."""

    __slots__ = ("_block", "_places", "_tools")

    def __init__(self, id: str, parent: Span | None, block: Block, tools: Tools, places: Places) -> None:
        super().__init__(id, parent)
        self._block = block
        self._tools = tools
        self._places = places

    def exit(self, result: Any) -> None:
        """The tool has answered, perhaps with its failure."""
        error: BaseException | None = None
        fields: dict[str, Any] = {}
        with _UNSEEN:
            error, fields = told_output(result)
        self._end(error, fields)

    def drop(self, error: BaseException) -> None:
        """The tool has raised."""
        self._end(GeneratorExit() if is_waiting(error) else error, {})

    def _end(self, error: BaseException | None, fields: Mapping[str, Any]) -> None:
        self._tools.forget(self._block)
        self._places.release(self.id)
        self._places.end(self.id, error, fields)


def _arguments(arguments: Mapping[str, Any]) -> Any:
    """What the tool was called with; a workflow's context is no argument."""
    named = arguments.get("kwargs")
    rest = {name: value for name, value in arguments.items() if name not in ("args", "kwargs")}
    if isinstance(named, Mapping):
        rest.update(named)
    found = {name: value for name, value in rest.items() if type(value).__name__ != "Context"}
    positional = arguments.get("args")
    if positional:
        found["args"] = positional
    return plain(found)


class Embedding(Span):
    """One call for embeddings: of a query, a text, or a batch of texts.

    With a cache of the application's own, a single text is a call only where the model's function is reached.
    """

    __slots__ = ("_begun", "_count", "_instance", "_is_cached", "_places")

    def __init__(
        self, id: str, parent: Span | None, method: str, instance: Any, arguments: Mapping[str, Any], places: Places
    ) -> None:
        super().__init__(id, parent)
        self._places = places
        self._instance = instance
        texts = arguments.get("texts")
        self._count = len(texts) if isinstance(texts, (list, tuple)) else 1
        self._is_cached = not method.endswith("batch") and bool(getattr(instance, "embeddings_cache", None))
        self._begun = False
        if not self._is_cached:
            self.begin()

    def begin(self) -> None:
        """Ask the model."""
        if self._begun:
            return
        instance = self._instance
        block = observe.llm(
            model_of(instance),
            provider=provider_of(instance),
            operation="embeddings",
            messages_count=self._count,
        )
        self._places.begin(self.id, block)
        self._begun = True

    def exit(self, result: Any) -> None:
        """The vectors are here."""
        self._end(None)
        runtime = observe.installed()
        if self._is_cached and runtime is not None:
            kind = "embeddings"
            runtime.emit(CacheMiss(cache_type=kind) if self._begun else CacheHit(cache_type=kind, tokens_saved=0))

    def drop(self, error: BaseException) -> None:
        """The call has failed."""
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._places.release(self.id)
        self._places.end(self.id, error)


__all__ = ["Embedding", "Tools"]
