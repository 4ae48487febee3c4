"""Where an event belongs: its own place in a tree and the place above it, from nothing but its own fields."""

from __future__ import annotations

from typing import NamedTuple

from ..events import AgentEnd, AgentStart, Event
from .current import SPAN_DATA
from .ids import SpanKindName, call_of, exported_elsewhere


class Place(NamedTuple):
    """What the id of a span is derived from."""

    root: str
    kind: SpanKindName
    invocation: str = ""
    local: str = ""
    attempt: int = 1

    @property
    def is_elsewhere(self) -> bool:
        """Whether somebody else exports the span at this place, and none is to be made."""
        return exported_elsewhere(self.local or self.invocation) != 0


class Lineage(NamedTuple):
    """An event's lineage with the gaps filled in: the tree, the run, and the run that called it."""

    root: str
    invocation: str
    parent: str = ""

    def agent(self, attempt: int) -> Place:
        """The place of the run itself."""
        return Place(self.root, "agent", self.invocation, "", attempt)

    def call(self, kind: SpanKindName, local: str, attempt: int) -> Place:
        """The place of a call in the run."""
        return Place(self.root, kind, self.invocation, local, attempt)


def above(event: Event, lineage: Lineage) -> Place | None:
    """The place under which this event's own span (or moment) stands; None at the top of a tree."""
    if isinstance(event, (AgentStart, AgentEnd)):
        run, attempt = lineage.parent, parent_attempt(event)
    else:
        run, attempt = lineage.invocation, event.attempt
    if event.parent_call_id:
        kind, local = call_of(event.parent_call_id)
        return Place(lineage.root, kind, run, local, attempt)
    return Place(lineage.root, "agent", run, "", attempt) if run else None


def span_data(event: Event) -> dict[str, object]:
    """What travels in an event's attributes and is no attribute of its span."""
    data = event.attributes.get(SPAN_DATA)
    return data if isinstance(data, dict) else {}  # type: ignore[return-value]  # JSON is an object too


def parent_attempt(event: Event) -> int:
    """Which attempt of the calling run this one stands under."""
    attempt = span_data(event).get("parent_attempt")
    return attempt if isinstance(attempt, int) else 1
