"""Where blocks live: begun where LlamaIndex tells of a beginning, current while its function runs, ended anywhere.

A function of LlamaIndex may return long before what it began is over (a stream, an engine that streams, the run of a
workflow). So a block keeps a context of its own, and is only held where its function runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...blocks import Block
from ...callbacks import OpenBlocks
from ..losses import Shielded

_UNTOLD = Shielded("the end of something in LlamaIndex could not be told whole")


class Places:
    """The blocks of this adapter that are open, by the ids of LlamaIndex's spans."""

    def __init__(self) -> None:
        self.blocks = OpenBlocks()

    def begin(self, id: str, block: Block, *, under: str | None = None, held: bool = True) -> None:
        """Begin a block, under another open one or what is current here; `held`, it is current here until `release`.

        Raises `BudgetExceeded` where a budget is to stop it.
        """
        self.blocks.begin(id, block, parent=under, current=False)
        if held:
            self.hold(id, id)

    def hold(self, place: str, id: str) -> None:
        """Have the block of `id` be the current one here, until the place is released."""
        self.blocks.join(f"held {place}", id, current=True)

    def release(self, place: str) -> None:
        """Have this place be again what it was."""
        self.blocks.end(f"held {place}")

    def end(self, id: str, error: BaseException | None = None, fields: Mapping[str, Any] | None = None) -> None:
        """End the block of this id, if it has not ended."""
        self.blocks.end(id, error, **(fields or {}))

    def is_open(self, id: str) -> bool:
        """Whether the block of this id has begun and not ended."""
        return self.blocks.get(id) is not None


class Span:
    """One span of LlamaIndex that is open. This one is no block: what happens in it belongs to what is around it."""

    __slots__ = ("id", "parent")

    def __init__(self, id: str, parent: Span | None) -> None:
        self.id = id
        self.parent = parent

    def exit(self, result: Any) -> None:
        """Its function has returned."""

    def drop(self, error: BaseException) -> None:
        """Its function has raised."""

    def heard(self, result: Any) -> None:
        """An event said of it how it ended."""


__all__ = ["Places", "Span"]
