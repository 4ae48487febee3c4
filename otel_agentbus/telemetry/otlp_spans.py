"""Spans, resources and scopes that stay exactly what was read: the SDK's own would clean, merge or count anew."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceState


class KeptSpan(ReadableSpan):
    """A span whose dropped counts (attributes, events, links) are told, not kept by the SDK's bounded collections."""

    def __init__(self, dropped: tuple[int, int, int] = (0, 0, 0), **fields: Any) -> None:
        super().__init__(**fields)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were dropped."""
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        """How many events were dropped."""
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        """How many links were dropped."""
        return self._dropped[2]


class KeptEvent(Event):
    """The same for an event."""

    def __init__(self, name: str, attributes: Any, timestamp: int, dropped: int) -> None:
        super().__init__(name, attributes, timestamp)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were dropped."""
        return self._dropped


class KeptLink(Link):
    """The same for a link."""

    def __init__(self, context: SpanContext, attributes: Any, dropped: int) -> None:
        super().__init__(context, attributes)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were dropped."""
        return self._dropped


class KeptResource(Resource):
    """A resource with attributes that the SDK would clean; equal to no other one, so that groups stay apart."""

    def __init__(self, attributes: Mapping[str, Any], schema_url: str) -> None:
        super().__init__({}, schema_url)
        self._kept = attributes

    @property
    def attributes(self) -> Any:
        """The attributes as they were read."""
        return self._kept

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class KeptScope(InstrumentationScope):
    """The same for a scope."""

    def __init__(self, name: str, version: str | None, schema_url: str, attributes: Mapping[str, Any]) -> None:
        super().__init__(name, version, schema_url)
        self._kept = attributes

    @property
    def attributes(self) -> Any:
        """The attributes as they were read."""
        return self._kept

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class KeptState(TraceState):
    """A trace state that is not W3C's, kept as it was written."""

    def __init__(self, text: str) -> None:
        super().__init__()
        key, _, value = text.partition("=")
        self._dict = {key: value}


class KeptStatus(Status):
    """A status with a description where the SDK would not take one."""

    def __init__(self, code: StatusCode, description: str) -> None:
        super().__init__(code)
        self._description = description


class Pairs(Mapping[str, Any]):
    """Attributes in which a key stands more than once: the last one answers, all are written."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self._pairs = pairs
        self._last = dict(pairs)

    def __getitem__(self, key: str) -> Any:
        return self._last[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def items(self) -> ItemsView[str, Any]:
        """All pairs, in order."""
        return self._pairs  # type: ignore[return-value]  # whoever asks goes through them
