"""Whether two tellings are of one model call: by their names, their models, their counts, their order and their times.

Nothing here remembers anything. Tellings that could be of one call are taken for one where nothing speaks against it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from uuid import UUID

from otel_agentbus.events import Event, LlmRequest, LlmResponse

from .accounts import NOTHING
from .ids import call_of
from .usage import Usage, usage_of

#: Who reports no durations may tell of one call at two moments; they are no further apart than this.
SLACK_NS = 50_000_000
#: How many calls inside of another one are looked at.
INNER = 64
#: A longer id is remembered by its digest.
_ID_LENGTH = 128
#: A longer name of a model is compared by its beginning.
_MODEL_LENGTH = 256

#: What a model's name may begin with, where a cloud serves it ("us.anthropic."), and what it may end with: a date, a
#: version, "latest".
_VENDOR = re.compile(r"(?:[a-z]{2,}\.)+(?=[a-z])")
_VERSION = re.compile(r"[-@:](\d{4}.*|latest|v\d.*|preview.*)")

#: Root, invocation and attempt: the run in which something happens, and which attempt at it.
Place = tuple[object, object, object]
#: The place, and the call's id or, if it has none, the source and number of the event.
CallName = tuple[object, ...]

# What is known of a call, as bits: it is a block, which knows its place; it failed; its usage is known; its cost is;
# what lies inside of it has told of it.
BLOCK, FAILED, USED, COSTED, COVERED = 1, 2, 4, 8, 16

_NO_PARTS = (None, None, None)


class Nest:
    """What lies inside of a call that others enclose, or that encloses others, or that a cache has answered."""

    __slots__ = ("hit", "inner", "untold", "waits_in")

    def __init__(self) -> None:
        #: The calls inside that have been told of.
        self.inner: list[Call] = []
        #: The one inside that knew nothing but that it was made: this call, which encloses it, will tell.
        self.untold: Call | None = None
        #: The call that will tell of this one.
        self.waits_in: Call | None = None
        #: How many tokens an answer from the application's own cache has saved; -1 where nobody knows.
        self.hit: int | None = None


class Call:
    """A call of which something was told. There are many of them, so it keeps no more than may be asked for."""

    __slots__ = (
        "_input",
        "_output",
        "_parts",
        "asked",
        "end_ns",
        "known",
        "models",
        "name",
        "nest",
        "start_ns",
        "told",
    )

    def __init__(self, name: CallName) -> None:
        self.name = name
        #: The names of its model.
        self.models: tuple[str, ...] = ()
        #: The numbers of its request and of its first response among all events; 0 where there was none.
        self.asked = self.told = 0
        #: From when to when it went on, where it has a response id; 0 where that is not known.
        self.start_ns = self.end_ns = 0
        self._input: int | None = None
        self._output: int | None = None
        self._parts: tuple[int | None, int | None, int | None] | None = None
        self.known = 0
        self.nest: Nest | None = None

    @property
    def usage(self) -> Usage:
        """What it used, as far as that is known."""
        return Usage(self._input, self._output, *(self._parts or _NO_PARTS))

    @usage.setter
    def usage(self, usage: Usage) -> None:
        self._input, self._output = usage.input, usage.output
        self._parts = None if usage[2:5] == _NO_PARTS else usage[2:5]

    def nested(self) -> Nest:
        """Its nest, made when it is first needed."""
        if self.nest is None:
            self.nest = Nest()
        return self.nest

    def ask(self, event: LlmRequest, number: int) -> None:
        """Take down what the request says."""
        self.asked = number
        self.models = models_of(event.model, None)
        if getattr(event, "origin", None) is not None:
            self.known |= BLOCK

    def tell(self, event: LlmResponse, usage: Usage, number: int) -> None:
        """Take down what the first response says."""
        self.told = number
        self.models = models_of(event.model, event.response_model)
        self.usage = usage
        if usage.input is not None or usage.output is not None:
            self.known |= USED
        if isinstance(event.outcome, str) and event.outcome == "error":
            self.known |= FAILED
        if event.response_id is not None:
            self._time(event)

    def _time(self, event: LlmResponse) -> None:
        end_ns, duration = event.time_ns, event.duration
        if isinstance(end_ns, int):
            self.start_ns = self.end_ns = end_ns
            if isinstance(duration, (int, float)) and 0 < duration < 1e9:
                self.start_ns -= int(duration * 1e9)


# -- names ------------------------------------------------------------------------------------------------------------


def name_of(event: LlmRequest | LlmResponse, place: Place) -> CallName:
    """Under what the call is known. Of an event that has neither id nor number only the place is told."""
    call_id = id_of(event.call_id)
    if call_id is not None:
        return place, call_id
    source, number = id_of(event.source), event.seq
    return (place,) if source is None or not isinstance(number, int) else (place, source, number)


def around_of(event: Event, place: Place) -> CallName | None:
    """The model call that directly encloses what this event tells of."""
    parent = event.parent_call_id
    if parent is None or not isinstance(parent, str):
        return None
    kind, call_id = call_of(parent)
    return (place, id_of(call_id)) if kind == "llm" and call_id else None


def place_of(event: Event) -> Place:
    """Where something happens, as it can be looked up."""
    attempt = event.attempt
    return (
        id_of(event.root_invocation_id),
        id_of(event.invocation_id),
        attempt if attempt.__class__ is int else id_of(attempt),
    )


def id_of(value: object) -> object:
    """An id as it can be looked up: texts and what is like them; None where it tells nothing apart."""
    if isinstance(value, str):
        if value.__class__ is str and 0 < len(value) <= _ID_LENGTH:
            return value
        plain = str.__str__(value)  # a subclass may say that it equals anything
        return plain if 0 < len(plain) <= _ID_LENGTH else _digest(plain) if plain else None
    if isinstance(value, (int, float, UUID, bytes)):  # with their types: 1, 1.0 and True are equal, and not one id
        try:
            return value.__class__.__name__, id_of(repr(value))
        except ValueError:  # an int of more digits than Python writes
            return None
    return None


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def models_of(model: object, response_model: object) -> tuple[str, ...]:
    """The names under which a model may be known: without the vendor's prefix, in lower case."""
    try:
        return _models(model, response_model)
    except Exception:  # noqa: BLE001 - a name may be anything, even what cannot be looked up
        return ()


@lru_cache(maxsize=256)
def _models(*given: object) -> tuple[str, ...]:
    texts = (name[:_MODEL_LENGTH] for name in given if isinstance(name, str) and name)
    names = (name.rpartition("/")[2].lower() for name in texts)
    return tuple(dict.fromkeys(_VENDOR.sub("", name, count=1) if _VENDOR.match(name) else name for name in names))


def share(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two calls may be of the same model. A call that names none may be of any."""
    return one == other or not one or not other or any(_is_same_model(a, b) for a in one for b in other)


def _is_same_model(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return short == long or (long.startswith(short) and _VERSION.fullmatch(long, len(short)) is not None)


def counts_of(event: LlmResponse) -> Usage:
    """The event's usage; one whose counts cannot even be read has an invalid one."""
    try:
        return usage_of(event)
    except Exception:  # noqa: BLE001 - the counts may be anything; that a call was made is known all the same
        return NOTHING._replace(invalid=1)


# -- the same call ----------------------------------------------------------------------------------------------------


def is_told_within(inner: Call, outer: Call) -> bool:
    """Whether what a call says may be of the one that it encloses. An attempt that failed is not what succeeded."""
    if inner.known & FAILED and not inner.known & USED and not outer.known & FAILED:
        return False
    return share(inner.models, outer.models)


def may_sum(outer: Call, inner: Sequence[Call]) -> bool:
    """Whether the counts of a call may be those of what it encloses: of all, or of one (the last attempt, say)."""
    if len(inner) >= INNER or not all(call.known & USED for call in (outer, *inner)):
        return True
    candidates = [call.usage for call in inner]
    if len(inner) > 1:
        candidates.append(total([call.usage for call in inner]))
    return any(not _differ(usage, outer.usage) for usage in candidates)


def is_same(one: Call, other: Call) -> bool:
    """Whether two tellings under one response id are of one call. Test doubles give every response the same id."""
    if not share(one.models, other.models) or one.known & other.known & BLOCK:  # of blocks, the place tells all
        return False
    if _differ(one.usage, other.usage, each=True):
        return False
    first, second = (one, other) if (one.asked or one.told) <= (other.asked or other.told) else (other, one)
    if second.asked and (first.told < second.asked or (first.asked and first.told < second.told)):
        return False  # asked after the other was answered, or answered in turn: one after, or beside the other
    return _overlap(one, other)


def _overlap(one: Call, other: Call) -> bool:
    if not (one.end_ns and other.end_ns):
        return True
    gap = max(one.start_ns, other.start_ns) - min(one.end_ns, other.end_ns)
    timed = one.start_ns < one.end_ns and other.start_ns < other.end_ns
    return gap < 0 if timed else gap <= SLACK_NS


def _differ(one: Usage, other: Usage, *, each: bool = False) -> bool:
    """Whether the counts are another call's: input and output both or, where nothing is nested, any of them.

    One teller may count what was cached or thought apart, and the other may not.
    """
    cached = (one.cache_read or 0) + (one.cache_write or 0) or (other.cache_read or 0) + (other.cache_write or 0)
    differ_in = _apart(one.input, other.input, cached)
    differ_out = _apart(one.output, other.output, one.reasoning or other.reasoning or 0)
    return (differ_in or differ_out) if each else (differ_in and differ_out)


def _apart(one: int | None, other: int | None, part: int) -> bool:
    return one is not None and other is not None and abs(one - other) not in (0, part)


# -- sums -------------------------------------------------------------------------------------------------------------


def total(usages: Sequence[Usage]) -> Usage:
    """The sum of what is known."""
    sums = (
        sum(known) if (known := [count for count in counts if count is not None]) else None
        for counts in zip(*(usage[:-1] for usage in usages), strict=True)
    )
    return Usage._make((*sums, 0))


def rest(usage: Usage, told: Usage) -> Usage:
    """What is left of a total; nothing where it is none."""
    left = [None if count is None else count - (part or 0) for count, part in zip(usage[:-1], told[:-1], strict=True)]
    if any(count is not None and count < 0 for count in left) or not any(left):
        return NOTHING
    return Usage._make((*left, 0))
