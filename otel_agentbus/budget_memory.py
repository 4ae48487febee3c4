"""What budgets remember beyond the sums: single calls by their marks, and runs of producers that give no ids."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

from .events import AgentEnd, AgentStart, LlmResponse

#: So many calls are remembered that have no price yet, and so many of which no account could be had.
REMEMBERED = 4_096
#: So many runs without ids may lie one in the other; beyond it the outermost counts as one that was cut off.
NESTED = 64

V = TypeVar("V")


def mark_of(event: LlmResponse) -> int | None:
    """A number for the call, by its id in its run or else by the event's number: nobody ever sees two alike."""
    if event.call_id is not None:
        key: tuple[object, ...] = (event.root_invocation_id, event.invocation_id, event.attempt, event.call_id)
    elif event.seq is not None:
        key = (event.source, event.seq)
    else:
        return None
    try:
        return hash(key)
    except TypeError:  # an id that is no text
        return hash(repr(key))


def remember(memory: OrderedDict[int, V], mark: int, what: V) -> None:
    """Keep it under this mark, and forget what was kept longest where there is no room."""
    memory[mark] = what
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def is_free(event: LlmResponse) -> bool:
    """Whether it says that it cost nothing; that nothing is to be added says less."""
    return event.cost_usd.__class__ in {int, float} and event.cost_usd == 0


class Nameless:
    """The runs of producers that give no ids: from the first start to its end all is one run, whatever lies between.

    Where an agent starts that has not ended, its run and those inside of it were cut off, and a new one begins.
    """

    def __init__(self) -> None:
        self._open: list[tuple[str, object]] = []
        #: The name of the outermost run, if there is one now.
        self.root: str | None = None

    def begin(self, event: AgentStart) -> str | None:
        """Know of a start; gives the outermost run if that was cut off."""
        before = self.root
        if event.agent is not None:
            del self._open[self._depth(event.agent) :]
        self._open.append((f"{event.source}:{event.seq}", event.agent))
        del self._open[:-NESTED]
        self.root = self._open[0][0]
        return before if before != self.root else None

    def end(self, event: AgentEnd) -> str | None:
        """Know of an end; gives the outermost run if that is over with it."""
        depth = len(self._open) if event.agent is None else self._depth(event.agent)
        del self._open[min(depth, max(len(self._open) - 1, 0)) :]  # the innermost, where it is none of these
        over = None if self._open else self.root
        self.root = self._open[0][0] if self._open else None
        return over

    def _depth(self, agent: object) -> int:
        """Where this agent's run lies; beyond all where it has none."""
        return next((depth for depth, (_, open_) in enumerate(self._open) if open_ == agent), len(self._open))
