"""docs/events.md says what the events are, every field of them."""

from __future__ import annotations

from dataclasses import fields

from otel_agentbus import contract, events
from otel_agentbus.events import Event

from .events_reference import CLASSES, EXAMPLE, MEANINGS, PAGE, own_fields, page


def test_the_page_is_renewed() -> None:
    assert PAGE.read_text("utf-8") == page(), "python -m tests.events_reference renews it"


def test_every_event_and_every_field_is_on_it() -> None:
    kinds: set[type[Event]] = {
        kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)
    }
    assert set(CLASSES) == kinds - {Event}
    everything: tuple[type[Event], ...] = (Event, *CLASSES)
    named = {field.name for cls in everything for field in fields(cls)}
    assert set(MEANINGS) == named
    told = page()
    for cls in CLASSES:
        section = told.partition(f"\n## {cls.__name__}\n")[2].partition("\n## ")[0]
        for field in own_fields(cls):
            assert f"| `{field.name}` |" in section


def test_the_example_can_be_read() -> None:
    assert contract.read(contract.write(EXAMPLE)) == EXAMPLE
