"""The callables that hear one class of events, as `emit` walks them."""

from __future__ import annotations

from itertools import repeat
from operator import length_hint
from typing import TYPE_CHECKING, NamedTuple

from otel_agentbus.delivery import Handler

if TYPE_CHECKING:
    from .subscription import Subscription


class Cell(NamedTuple):
    """One subscription's place in a route."""

    subscription: Subscription
    call: Handler
    #: Whether `call` is the user's own handler, which counts nothing: its deliveries are the walks of the route.
    bare: bool


class Route(list[Handler]):
    """The callables that hear one class of events, in order. Its length never changes, and it counts its walks.

    What the router's table holds is not the route but `countdown`, an iterator that gives the route a limited number
    of times. Taking the route from it is what counts the walk, in C, at next to no cost, and its end is what sends
    one emit out of many the way that measures time. A cancelled subscription's cell is overwritten, so that not even
    a walk that is under way calls it.
    """

    __slots__ = ("__weakref__", "_laps", "_walks", "cells", "countdown")

    def __init__(self, cells: list[Cell]) -> None:
        super().__init__(cell.call for cell in cells)
        self.cells = cells
        self._walks = 0
        self._laps = 0
        self.countdown = repeat(self, 0)

    @property
    def walks(self) -> int:
        """How often the route has been walked."""
        return self._walks + self._laps - length_hint(self.countdown)

    def count_walk(self) -> None:
        """Count a walk that did not come by the countdown."""
        self._walks += 1

    def wind(self, laps: int) -> None:
        """Give the route so many times more before the countdown ends."""
        self._walks = self.walks
        self._laps = laps
        self.countdown = repeat(self, laps)

    def retire(self) -> None:
        """Book the walks on the subscriptions: there will be no more."""
        for cell in self.cells:
            if cell.bare:
                cell.subscription.booked_walks += self.walks
        self._walks = self._laps = 0
        self.countdown = repeat(self, 0)

    def silence(self, subscription: Subscription) -> None:
        """Let walks that are under way pass over this subscription."""
        for position, cell in enumerate(self.cells):
            if cell.subscription is subscription:
                self[position] = subscription.pass_over if cell.bare else _nothing

    def cell_of(self, call: Handler) -> Cell | None:
        """The place of a callable that has just been called; None if it stands in for a cancelled subscription."""
        return next((cell for cell in self.cells if cell.call is call), None)

    def cut_short(self, call: Handler) -> None:
        """Take back that this call and those after it returned: something that is no `Exception` ended the walk."""
        start = next((position for position, cell in enumerate(self.cells) if cell.call is call), len(self.cells))
        for cell in self.cells[start:]:
            if cell.bare:
                cell.subscription.missed.add()


def _nothing(_: object) -> None:
    """Takes the place of a cancelled subscription."""
