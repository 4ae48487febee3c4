"""One event as one record: its JSON, and whether a block has emitted it, which decides how its span may end."""

from __future__ import annotations

from .. import contract
from ..events import REPLAYED, Event

#: How the record of an event ends that a block has emitted: only the block's own end closes what it began.
_BY_BLOCK = b',"@block":true}'


def record_of(event: Event) -> bytes:
    """The event as a record; never raises."""
    data = contract.write(event)
    origin = getattr(event, "origin", None)
    return data if origin is None or origin is REPLAYED else data[:-1] + _BY_BLOCK


def read_record(data: bytes) -> tuple[Event, bool]:
    """The event in this record, marked as replayed, and whether a block had emitted it.

    Raises:
        UnreadableEvent: there is no event in it.

    """
    by_block = data.endswith(_BY_BLOCK)
    event = contract.read(data[: -len(_BY_BLOCK)] + b"}" if by_block else data)
    event.origin = REPLAYED
    return event, by_block
