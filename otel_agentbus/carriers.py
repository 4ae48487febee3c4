"""How a run is carried to another process: W3C `traceparent` and `tracestate`, and one entry of our own.

The entry `agentbus` is a list of percent-encoded fields behind a version, at most 1 KiB:

    1;{invocation id};{root id};{parent call};{attempt};{conversation id};{agent};{path, joined by "/"}

What is missing, oversized, of another version or garbage gives a fresh root, never an error.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar
from urllib.parse import quote, unquote

from .blocks import installed, surrounding
from .invocation import Boundary, Frame, Invocation, enclosing, enter, leave
from .runtime import Tracing
from .streams import is_coroutine_function

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("otel_agentbus.carriers")

ENTRY = "agentbus"
VERSION = "1"
LIMIT = 1024

#: W3C Trace Context: what version 00 is, and what every later version begins with.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
#: The flags that are known: sampled, random trace id.
_KNOWN_FLAGS = 0x03
#: One member of a tracestate, and how much of them all has to be passed on.
_MEMBER = re.compile(r"[a-z0-9][-_*/a-z0-9]{0,240}(@[a-z][-_*/a-z0-9]{0,13})?=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_MEMBERS, _TRACESTATE_LIMIT = 32, 512
#: How long a baggage may be.
_BAGGAGE_LIMIT = 8192


#: The names that are looked at in a carrier.
_READ = frozenset({ENTRY, "traceparent", "tracestate", "baggage"})


@dataclass(frozen=True, slots=True)
class Carried:
    """What a carrier tells: the run, and the W3C trace context and baggage of the place where it was injected."""

    invocation: Invocation | None = None
    call: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    #: As it came; only what AGENTBUS_BAGGAGE names is ever read of it.
    baggage: str | None = None


def inject(carrier: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Write the run that is current here into a carrier (message headers, a job's metadata); gives it back.

    Without a current run only the trace context is written, if OpenTelemetry has one. Never raises.
    """
    carrier = {} if carrier is None else carrier
    try:
        _inject(carrier)
    except Exception:  # noqa: BLE001 - a carrier that takes nothing must not fail the message that it belongs to
        _log.warning("Nothing could be written into a carrier of type %s", type(carrier).__name__, exc_info=True)
    return carrier


def _inject(carrier: MutableMapping[str, str]) -> None:
    runtime = installed()
    frame = surrounding()
    run = None if frame is None else frame.invocation
    entry = _write(run, frame.call) if frame is not None and run is not None and run.id else None
    if entry is not None and len(entry) <= LIMIT:
        carrier[ENTRY] = entry
    elif runtime is not None and runtime.tracing is not None and ENTRY in carrier:
        del carrier[ENTRY]  # a carrier that is sent again: the run of then does not belong to the trace context of now
    if runtime is not None and runtime.tracing is not None:
        runtime.tracing.inject(carrier, run, None if frame is None else frame.call)


def _write(run: Invocation, call: str | None) -> str:
    fields = [run.id, run.root_id, call, str(run.attempt), run.conversation_id, run.agent]
    path = "/".join(_quoted(name) for name in run.path)
    head = ";".join([VERSION, *(_quoted(field or "") for field in fields)])
    # A deep tree may have a long path; it is for people only, and gives way.
    return f"{head};{path}" if len(head) + len(path) < LIMIT else f"{head};"


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def extract(carrier: Mapping[str, Any] | None) -> Carried:
    """Read a carrier (a mapping, or pairs as ASGI and Kafka have them); what cannot be read is as if it were not there.

    Names count in any case, values may be bytes or lists of values.
    """
    try:
        return _extract(carrier)
    except Exception:  # noqa: BLE001 - what comes from outside may be anything
        return Carried()


def _extract(carrier: Any) -> Carried:
    pairs = carrier.items() if hasattr(carrier, "items") else carrier or ()
    found: dict[str, list[Any]] = {}
    for key, value in pairs:
        name = (_text(key) or "").lower()
        if name in _READ:
            found.setdefault(name, []).append(value)
    run, call = _read(_text(found.get(ENTRY)))
    traceparent = _traceparent(_text(found.get("traceparent")))
    tracestate = _tracestate(_text(found.get("tracestate"), separator=",")) if traceparent is not None else None
    baggage = _text(found.get("baggage"), separator=",")
    return Carried(run, call, traceparent, tracestate, baggage if len(baggage or "") <= _BAGGAGE_LIMIT else None)


def _text(value: object, separator: str | None = None) -> str | None:
    """A header's text; of several values the first, or all of them where the header is a list itself."""
    if isinstance(value, (list, tuple)):
        texts = [text for item in value if (text := _text(item, separator)) is not None]
        return separator.join(texts) if separator is not None else next(iter(texts), None)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return (value.strip() or None) if isinstance(value, str) else None


def _traceparent(text: str | None) -> str | None:
    """A traceparent of any version as one of version 00, unknown flags left out; None where it is invalid."""
    found = _TRACEPARENT.fullmatch(text) if text is not None else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or int(trace_id, 16) == 0 or int(span_id, 16) == 0:
        return None
    return f"00-{trace_id}-{span_id}-{int(flags, 16) & _KNOWN_FLAGS:02x}"


def _tracestate(text: str | None) -> str | None:
    if text is None or len(text) > _TRACESTATE_LIMIT:
        return None
    members = [member for part in text.split(",") if (member := part.strip())]
    keys = {member.partition("=")[0] for member in members}
    if not members or len(keys) < len(members) or len(members) > _MEMBERS:
        return None
    return ",".join(members) if all(map(_MEMBER.fullmatch, members)) else None


def _read(entry: str | None) -> tuple[Invocation | None, str | None]:
    fields = (entry or "").split(";") if len(entry or "") <= LIMIT else []
    if len(fields) != 8 or fields[0] != VERSION:
        return None, None
    *told, path = fields[1:]
    try:
        run_id, root_id, call, attempt, conversation, agent = map(_unquoted, told)
        names = tuple(map(_unquoted, path.split("/"))) if path else ()
    except UnicodeDecodeError:
        return None, None
    if not (run_id and root_id and attempt.isdecimal() and 1 <= int(attempt) < 1_000_000):
        return None, None
    run = Invocation.rehydrate(
        run_id, root_id, agent=agent or None, path=names, attempt=int(attempt), conversation_id=conversation or None
    )
    return run, call or None


def _unquoted(text: str) -> str:
    return unquote(text, errors="surrogatepass")


class Resumed(AbstractContextManager["Invocation | None"]):
    """A carrier's run that goes on inside: a `with`, or a decorator of functions and coroutine functions."""

    __slots__ = ("_carrier", "_entered", "_link", "_trusted")

    def __init__(self, carrier: Mapping[str, Any] | Carried | None, *, link: bool, trusted: bool) -> None:
        self._carrier = carrier
        self._link = link
        self._trusted = trusted
        self._entered: list[tuple[Frame, Callable[[], None] | None]] = []

    def __enter__(self) -> Invocation | None:
        carried = self._carrier if isinstance(self._carrier, Carried) else extract(self._carrier)
        runtime = installed()
        tracing = runtime.tracing if runtime is not None else None
        frame: Frame = Boundary([])
        leave_remote = None
        try:
            if self._link or not self._trusted:
                frame = _linked(carried, tracing, self._trusted)
            else:
                if carried.invocation is not None:
                    frame = _continued(carried, carried.invocation, tracing)
                if tracing is not None:
                    leave_remote = tracing.enter_remote(carried.traceparent, carried.tracestate, carried.baggage)
        except Exception:  # noqa: BLE001 - what comes from outside must not fail the work that it comes with
            _log.warning("A carrier could not be resumed as it is", exc_info=True)
        enter(frame, enclosing())
        self._entered.append((frame, leave_remote))
        return None if isinstance(frame, Boundary) else frame.invocation

    def __exit__(self, *_: object) -> None:
        frame, leave_remote = self._entered.pop()
        leave(frame)
        if leave_remote is not None:
            leave_remote()

    def __call__(self, function: F) -> F:
        """Decorate: each call is inside, each with the same carrier."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function!r} is a generator: resume inside of it, or decorate what consumes it")
        link, trusted = self._link, self._trusted

        if is_coroutine_function(function):

            @functools.wraps(function)
            async def awaiting(*args: Any, **kwargs: Any) -> Any:
                with Resumed(self._carrier, link=link, trusted=trusted):
                    return await function(*args, **kwargs)

            return awaiting  # type: ignore[return-value]  # a wrapper keeps its function's signature

        @functools.wraps(function)
        def calling(*args: Any, **kwargs: Any) -> Any:
            with Resumed(self._carrier, link=link, trusted=trusted):
                return function(*args, **kwargs)

        return calling  # type: ignore[return-value]  # a wrapper keeps its function's signature


def _linked(carried: Carried, tracing: Tracing | None, trusted: bool) -> Boundary:
    """Where new roots begin that link to the carrier's span; of a trusted one they keep the conversation, too."""
    link = tracing.link(carried.traceparent) if tracing is not None else None
    boundary = Boundary([] if link is None else [link])
    if trusted and carried.invocation is not None:
        boundary.invocation = replace(boundary.invocation, conversation_id=carried.invocation.conversation_id)
    return boundary


def _continued(carried: Carried, run: Invocation, tracing: Tracing | None) -> Frame:
    """The run with its trace and its decision; as they came, where a bus is connected only later."""
    trace = carried.traceparent if tracing is None else tracing.continued(carried.traceparent)
    return Frame(replace(run, trace=trace, tracestate=carried.tracestate), carried.call)


def resume(
    carrier: Mapping[str, Any] | Carried | None,
    policy: Literal["parent", "link"] = "parent",
    trusted: bool = True,
) -> Resumed:
    """Continue, in this process, the run that a carrier brings: agents started inside are its sub-agents.

    A `with` (in coroutines, too), which gives that run, or a decorator of functions and coroutine functions. With
    `policy="link"` (retries, batches) they are roots of their own that link to it, and keep its conversation. For
    carriers that are not `trusted` they only link to it, whatever the policy. A carrier with no more than a trace
    context makes them children of that span; where a local span of that trace is current (of the server or worker that
    received the carrier), it stays, and they are its children. With nothing that can be read they are fresh roots.
    """
    if policy not in ("parent", "link"):
        raise ValueError(f"policy is {policy!r}; it is 'parent' (continue the trace) or 'link' (a trace of its own)")
    return Resumed(carrier, link=policy == "link", trusted=trusted)


__all__ = ["Carried", "Resumed", "extract", "inject", "resume"]
