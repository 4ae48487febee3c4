"""Blocks whose beginning and whose end a framework tells in two callbacks, by ids of its own.

A callback names its parent by an id; it may run in the code that it tells of, or anywhere else. So the parent of a
block is the one that is named, and only where none is, what is current; and a block is current in the place of its
callback only where that is where the user's code will run.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from .blocks import Block, installed
from .invocation import make_current, topmost

B = TypeVar("B", bound=Block)

#: How many may be open at a time in one framework; beyond it the oldest are forgotten, whose ends never came.
MOST = 10_000


class OpenBlocks:
    """What one framework has begun and not ended, by its ids. Safe in threads, never longer than `most`."""

    def __init__(self, most: int = MOST) -> None:
        self._open: dict[Hashable, _Open] = {}
        self._most = most
        #: Whether what begins without a known parent is observed; after `off()` only what is open goes on.
        self.on = True

    def __len__(self) -> int:
        return len(self._open)

    def get(self, key: Hashable | None) -> Block | None:
        """The open block of that id, or the one that it has joined; None where nothing is known of it."""
        entry = None if key is None else self._open.get(key)
        return None if entry is None else entry.block

    def begin(self, key: Hashable, block: B, *, parent: Hashable | None = None, current: bool = True) -> B | None:
        """Begin `block` under the block of `parent` or, where that is not known, under what is current here.

        With `current` it is the current one here until `end`, which is to be called here, too; without, this place
        stays as it is (a generator's body runs in its consumer's context; a pool's thread goes on to others). None
        where it is not observed any more. Raises `BudgetExceeded` where a budget is to stop it: it has not begun then.
        """
        above = self.get(parent)
        if above is None and not self.on:
            return None
        if current:
            leave = None if above is None else hold(above)
            try:
                block.start()
            except BaseException:
                if leave is not None:
                    leave()
                raise
            self._keep(key, _Open(block, leave, None))
            return block
        home = contextvars.copy_context()
        home.run(_start_under, block, above)
        self._keep(key, _Open(block, None, home))
        return block

    def join(self, key: Hashable, of: Hashable | None, *, current: bool = False) -> None:
        """Let what names `key` as its parent belong to the block of `of`: for a step that is no block of its own.

        With `current` that block is the current one here until `end(key)`.
        """
        block = self.get(of)
        if block is not None:
            self._keep(key, _Open(block, hold(block) if current else None, None, joined=True))

    def end(self, key: Hashable, error: BaseException | None = None, /, **fields: Any) -> Block | None:
        """End what began under this id, with what its end event says; None where nothing did, or it has ended."""
        entry = self._open.pop(key, None)
        if entry is None:
            return None
        if entry.before is not None:  # begun under the same id, and still open
            self._open[key] = entry.before
        said = {name: value for name, value in fields.items() if value is not None}
        if said and not entry.joined:
            entry.block.record(**said)
        entry.end(error)
        return entry.block

    def off(self) -> None:
        """Begin nothing new any more, but for what belongs to what is open."""
        self.on = False

    def _keep(self, key: Hashable, entry: _Open) -> None:
        while len(self._open) >= self._most:
            forgotten = self._open.pop(next(iter(self._open), None), None)
            while forgotten is not None:
                forgotten.end(Forgotten())
                forgotten = forgotten.before
        entry.before = self._open.pop(key, None)
        self._open[key] = entry


class Forgotten(BaseException):
    """How a block ends whose end never came: it is no `Exception`, so it is no error."""


class _Open:
    """One block, where it lives, how this place becomes again what it was, and what had its id before it."""

    __slots__ = ("before", "block", "home", "joined", "leave")

    def __init__(
        self,
        block: Block,
        leave: Callable[[], None] | None,
        home: contextvars.Context | None,
        *,
        joined: bool = False,
    ) -> None:
        self.block = block
        self.leave = leave
        self.home = home
        self.joined = joined
        self.before: _Open | None = None

    def end(self, error: BaseException | None) -> None:
        """End the block, if it is not another's, and make this place what it was."""
        if not self.joined:
            if self.home is None:
                self.block.end(error)
            else:
                self.home.run(self.block.end, error)
        if self.leave is not None:
            self.leave()


def hold(block: Block) -> Callable[[], None]:
    """Make a block that was begun elsewhere the current one here, with its span; gives back how to leave it.

    Leaving does nothing where something else is current by then: what was made current last is its own affair.
    """
    before = topmost()
    tracing = None if (runtime := installed()) is None else runtime.tracing
    make_current(block)
    release = None if tracing is None or block.span is None else tracing.hold(block.span)

    def leave() -> None:
        if topmost() is block:
            make_current(before)
        if release is not None:
            release()

    return leave


def _start_under(block: Block, above: Block | None) -> None:
    if above is not None:
        hold(above)
    block.start()


__all__ = ["MOST", "OpenBlocks", "hold"]
