"""How a run is carried to another process: W3C `traceparent` and `tracestate`, and one entry of our own.

The entry `agentbus` is a list of percent-encoded fields behind a version, at most 1 KiB:

    1;{invocation id};{root id};{parent call};{attempt};{conversation id};{agent};{path, joined by "/"}

What is missing, oversized, of another version or garbage gives a fresh root, never an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, unquote

from .blocks import installed
from .invocation import Boundary, Frame, Invocation, enter, leave, top

ENTRY = "agentbus"
VERSION = "1"
LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Carried:
    """What a carrier tells: the run, and the W3C trace context of the place where it was injected."""

    invocation: Invocation | None = None
    call: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


def inject(carrier: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Write the run that is current here into a carrier (message headers, a job's metadata); gives it back.

    Without a current run only the trace context is written, if OpenTelemetry has one. Never raises.
    """
    carrier = {} if carrier is None else carrier
    runtime = installed()
    if runtime is not None and runtime.tracing is not None:
        runtime.tracing.inject(carrier)
    frame = top()
    if frame is not None and frame.invocation.id:
        entry = _write(frame.invocation, frame.call)
        if len(entry) <= LIMIT:
            carrier[ENTRY] = entry
    return carrier


def _write(run: Invocation, call: str | None) -> str:
    fields = [run.id, run.root_id, call, str(run.attempt), run.conversation_id, run.agent]
    path = "/".join(quote(name, safe="") for name in run.path)
    head = ";".join([VERSION, *(quote(field or "", safe="") for field in fields)])
    # A deep tree may have a long path; it is for people only, and gives way.
    return f"{head};{path}" if len(head) + len(path) < LIMIT else f"{head};"


def extract(carrier: Mapping[str, Any]) -> Carried:
    """Read a carrier, whatever is in it; what cannot be read is as if it were not there."""
    lowered = {str(key).lower(): value for key, value in carrier.items()} if isinstance(carrier, Mapping) else {}
    run, call = _read(_text(lowered.get(ENTRY)))
    return Carried(run, call, _text(lowered.get("traceparent")), _text(lowered.get("tracestate")))


def _text(value: object) -> str | None:
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) and value else None


def _read(entry: str | None) -> tuple[Invocation | None, str | None]:
    if entry is None or len(entry) > LIMIT:
        return None, None
    fields = entry.split(";")
    if len(fields) != 8 or fields[0] != VERSION:
        return None, None
    _, run_id, root_id, call, attempt, conversation, agent, path = fields
    run_id, root_id = unquote(run_id), unquote(root_id)
    if not (run_id and root_id and attempt.isdecimal() and 1 <= int(attempt) < 1_000_000):
        return None, None
    run = Invocation.rehydrate(
        run_id,
        root_id,
        agent=unquote(agent) or None,
        path=tuple(unquote(name) for name in path.split("/")) if path else (),
        attempt=int(attempt),
        conversation_id=unquote(conversation) or None,
    )
    return run, unquote(call) or None


@contextmanager
def resume(
    carrier: Mapping[str, Any] | Carried,
    policy: Literal["parent", "link"] = "parent",
    trusted: bool = True,
) -> Iterator[Invocation | None]:
    """Continue, in this process, the run that a carrier brings: agents started inside are its sub-agents.

    With `policy="link"` (retries, batches), and for carriers that are not `trusted`, they are roots of their own that
    link to it. A carrier with no more than a trace context makes them children of that span. With nothing that can be
    read they are fresh roots.
    """
    if policy not in ("parent", "link"):
        raise ValueError(f"policy is {policy!r}; it is 'parent' (continue the trace) or 'link' (a trace of its own)")
    carried = carrier if isinstance(carrier, Carried) else extract(carrier)
    runtime = installed()
    tracing = runtime.tracing if runtime is not None else None
    run, restore = carried.invocation, None
    if policy == "link" or not trusted:
        run = None
        link = tracing.link(carried.traceparent) if tracing is not None else None
        frame: Frame = Boundary([] if link is None else [link])
    else:
        if tracing is not None:
            restore = tracing.enter_remote(carried.traceparent, carried.tracestate)
        if run is None:
            frame = Boundary([])
        else:
            if tracing is not None:
                run = replace(run, trace=tracing.continued(carried.traceparent), tracestate=carried.tracestate)
            frame = Frame(run, carried.call)
    enter(frame, top())
    try:
        yield run
    finally:
        leave(frame)
        if restore is not None:
            restore()


__all__ = ["Carried", "extract", "inject", "resume"]
