"""The handlers that hear one class of events, and the function that calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import repeat
from operator import length_hint
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, NamedTuple

from otel_agentbus.delivery import Handler
from otel_agentbus.events import Event

if TYPE_CHECKING:
    from .subscription import Subscription

#: So many calls are written out in one function; it calls another one for the rest.
LONGEST_WALK = 32


class Cell(NamedTuple):
    """One subscription's place in a route."""

    subscription: Subscription
    call: Handler
    #: Whether `call` is the user's own handler, which counts nothing: its deliveries are the walks of the route.
    bare: bool

    def passed_over(self, _: object = None) -> None:
        """Stands in for the call in walks that are under way when the subscription is cancelled."""
        if self.bare:
            self.subscription.missed.add()


#: Calls the handlers of an event.
Walk = Callable[[Event], object]
#: Takes what a call raised.
Failed = Callable[[Cell, Event, Exception], None]


class Route:
    """The handlers that hear one class of events, in order; it counts how often they were called.

    What the router's table holds is `countdown`, an iterator that gives the walk a limited number of times. Taking the
    walk from it is what counts, in C and at next to no cost; its end is what sends one emit out of many the way that
    measures time.
    """

    __slots__ = ("_laps", "_walks", "cells", "countdown", "walk")

    def __init__(self, cells: list[Cell], failed: Failed) -> None:
        self.cells = cells
        #: Without handlers, the cheapest call there is that takes an event and does nothing with it.
        self.walk: Walk = _walk_over(cells, failed) if cells else callable
        self.countdown: Iterator[Walk] = repeat(self.walk, 0)
        self._laps = 0
        self._walks = 0

    @property
    def walks(self) -> int:
        """How often the handlers were called."""
        return self._walks + self._laps - length_hint(self.countdown)

    @property
    def ended(self) -> bool:
        """Whether the countdown has come to its end."""
        return not length_hint(self.countdown)

    def count_walk(self) -> None:
        """Count a walk that was not taken from the countdown."""
        self._walks += 1

    def wind(self, laps: int) -> None:
        """Begin a new countdown; the last one has ended."""
        self._walks += self._laps
        self._laps = laps
        self.countdown = repeat(self.walk, laps)

    def retire(self) -> None:
        """Book the walks on the subscriptions: nobody takes one any more."""
        walks = self.walks
        self._walks = self._laps = 0
        self.countdown = repeat(self.walk, 0)
        for cell in self.cells:
            if cell.bare:
                cell.subscription.booked_walks += walks


def silence(walk: FunctionType, subscription: Subscription) -> None:
    """Let a walk that may be under way pass over this subscription."""
    names = walk.__globals__
    for position, cell in enumerate(names["cells"][:LONGEST_WALK]):
        if cell.subscription is subscription:
            names[f"call_{position}"] = cell.passed_over
    if "rest" in names:
        silence(names["rest"], subscription)


def cut_short(cells: list[Cell], position: int) -> None:
    """Take back that this call and those after it returned: something that is no `Exception` ended the walk."""
    for cell in cells[position:]:
        cell.passed_over()


def _walk_over(cells: list[Cell], failed: Failed) -> FunctionType:
    """A function that calls all these with its event, and hands what one raises to `failed`."""
    names: dict[str, object] = {"cells": cells, "failed": failed, "cut_short": cut_short}
    names.update((f"call_{position}", cell.call) for position, cell in enumerate(cells[:LONGEST_WALK]))
    if len(cells) > LONGEST_WALK:
        names["rest"] = _walk_over(cells[LONGEST_WALK:], failed)
    # A code object of its own: the interpreter specialises each call for the one function that is called there.
    return FunctionType(_code_of(min(len(cells), LONGEST_WALK), "rest" in names).replace(), names)


@lru_cache(maxsize=2 * LONGEST_WALK + 1)
def _code_of(calls: int, more: bool) -> CodeType:
    """A loop over so many calls, written out.

    In a loop every handler is called from one place, which therefore is specialised for none of them. Written out,
    five calls take a fifth less time than the loop: that pays for counting them.
    """
    lines = ["def walk(event):", *(_CALL.format(position) for position in range(calls))]
    lines.append("    rest(event)" if more else "    pass")
    names: dict[str, FunctionType] = {}
    exec(compile("\n".join(lines), f"<walk over {calls} handlers>", "exec"), names)
    return names["walk"].__code__


_CALL = """\
    try:
        call_{0}(event)
    except Exception as error:  # BaseException is not ours: Ctrl-C and CancelledError pass
        failed(cells[{0}], event, error)
    except BaseException:
        cut_short(cells, {0})
        raise"""
