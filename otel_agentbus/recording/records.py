"""One event as one record: its JSON, the account that its process has made of it, and whether a block has emitted it.

Whether a block has emitted it decides how its span may end. Its account stands there where it has one already: a
journal that is written before the accounts are made has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic_core import from_json, to_json

from .. import contract
from ..events import REPLAYED, Event, UnknownEvent

#: How the record of an event ends that a block has emitted: only the block's own end closes what it began.
_BY_BLOCK = b',"@block":true}'
#: What comes before the account: the last of these in a record, where nothing but the record's own end follows.
_ACCOUNT = b',"@account":'

#: Makes an account again of the list that a record has, for this event; None where it is none.
Accounts = Callable[[Event, list[Any]], Any]


def record_of(event: Event) -> bytes:
    """The event as a record; never raises."""
    data = contract.write(event)
    account = getattr(event, "account", None)
    if account is not None:
        data = _with_account(data, account)
    origin = getattr(event, "origin", None)
    return data if origin is None or origin is REPLAYED else data[:-1] + _BY_BLOCK


def _with_account(data: bytes, account: object) -> bytes:
    said = account if isinstance(account, tuple) else (account,)
    try:
        return b"".join((data[:-1], _ACCOUNT, to_json(said, inf_nan_mode="constants"), b"}"))
    except Exception:  # noqa: BLE001 - it may be of somebody else's; the event is told without it
        return data


def read_record(data: bytes, accounts: Accounts | None = None) -> tuple[Event, bool]:
    """The event in this record, marked as replayed, and whether a block had emitted it.

    `accounts` makes its account of what the record says of it; without it the event has none.

    Raises:
        UnreadableEvent: there is no event in it.

    """
    by_block = data.endswith(_BY_BLOCK)
    if by_block:
        data = data[: -len(_BY_BLOCK)] + b"}"
    own, said = _parted(data) if _ACCOUNT in data else (data, None)
    event = contract.read(own)
    if said is not None and isinstance(event, UnknownEvent):  # these have no accounts, but any names of their own
        event = contract.read(data)
    event.origin = REPLAYED
    if said is not None and accounts is not None:
        event.account = accounts(event, said)
    return event, by_block


def _parted(data: bytes) -> tuple[bytes, list[Any] | None]:
    """The event's own JSON, and the account; what an event says that looks like one is inside something."""
    head, _, tail = data.rpartition(_ACCOUNT)
    try:
        said = from_json(tail[:-1])
    except ValueError:
        return data, None
    return (head + b"}", said) if isinstance(said, list) else (data, None)
