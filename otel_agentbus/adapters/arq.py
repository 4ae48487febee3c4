"""arq, observed: a job's agents are sub-agents of the run that has enqueued it, each in the task of its own job.

arq has no place for metadata, but it has serializers: what is sent rides as one more entry of the dictionary that a
job is, so that it comes and goes with the job, and a worker that knows nothing of it never sees it. A reserved
argument would fail in such a worker; a key beside the job would outlive it, or be another's where ids are given again.

    pool = await create_pool(settings, job_serializer=carrying())

    @observed
    class WorkerSettings: ...

`instrument()` does the same without changed code: it wraps the one function by which a job is made
(`arq.connections.serialize_job`), and hands the worker's own hooks to each `Worker` that is made. Tested with
arq 0.28.0.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from arq import connections
from arq.worker import Worker

from .. import jobs
from .wrapping import Function, wrap

S = TypeVar("S")

Serializer = Callable[[dict[str, Any]], bytes]
Deserializer = Callable[[bytes], dict[str, Any]]
Hook = Callable[[dict[Any, Any]], Any]

#: Ours in the dictionary that a job is: a dictionary of strings, as `inject` writes them.
ENTRY = "agentbus"

#: What has come with the job that this task is about.
_sent: ContextVar[Any] = ContextVar("otel_agentbus.adapters.arq.sent", default=None)
_begun: ContextVar[jobs.Begun | None] = ContextVar("otel_agentbus.adapters.arq.begun", default=None)


def carrying(serializer: Serializer | None = None) -> Serializer:
    """A `job_serializer` that sends the current run with each job; `serializer` as arq takes it (None: pickle)."""
    return serializer if isinstance(serializer, _Carrying) else _Carrying(serializer or pickle.dumps, _always)


def taking(deserializer: Deserializer | None = None) -> Deserializer:
    """A `job_deserializer` that takes out what `carrying` has sent; `deserializer` as arq takes it (None: pickle)."""
    return deserializer if isinstance(deserializer, _Taking) else _Taking(deserializer or pickle.loads)


def observed(settings: S) -> S:
    """A worker's settings, a class or a dictionary, whose jobs go on with the runs that have enqueued them.

    A class is changed and given back, so that this may decorate it. The hooks that it has are called inside the job's
    context.
    """
    if isinstance(settings, dict):
        return {**settings, **_hooked(settings, _always)}  # type: ignore[return-value]  # a dictionary in and out
    for name, value in _hooked(vars(settings), _always).items():
        setattr(settings, name, value)
    return settings


def _always() -> bool:
    return True


def _hooked(settings: Any, on: Callable[[], bool]) -> dict[str, Any]:
    """What has to change in the arguments of a `Worker`; nothing where that has been done."""
    deserializer = settings.get("job_deserializer")
    if isinstance(deserializer, _Taking):
        return {}
    serializer = settings.get("job_serializer")
    ours = isinstance(serializer, _Carrying)
    return {
        "job_serializer": serializer if ours else _Carrying(serializer or pickle.dumps, on),
        "job_deserializer": taking(deserializer),
        "on_job_start": _starting(settings.get("on_job_start"), on),
        "after_job_end": _ending(settings.get("after_job_end")),
    }


class _Carrying:
    """Writes a job with the run that enqueues it."""

    def __init__(self, serializer: Serializer, on: Callable[[], bool]) -> None:
        self._serialize = serializer
        self._on = on

    def __call__(self, data: dict[str, Any]) -> bytes:
        sent: dict[str, Any] = {}
        if self._on() and _is_job(data):
            jobs.add_headers(sent)
        if sent:
            try:
                return self._serialize({**data, ENTRY: sent})
            except Exception:  # noqa: BLE001 - an application's own may take only what it knows
                pass
        return self._serialize(data)


class _Taking:
    """Reads a job, and keeps what came with it for the hook that is called next in this task."""

    def __init__(self, deserializer: Deserializer) -> None:
        self._deserialize = deserializer

    def __call__(self, raw: bytes) -> dict[str, Any]:
        data = self._deserialize(raw)
        if _is_job(data):
            _sent.set(data.pop(ENTRY, None))
        return data


def _is_job(data: object) -> bool:
    """Whether it is a job: results pass through the same serializers."""
    return isinstance(data, dict) and "f" in data and "r" not in data


def _starting(theirs: Hook | None, on: Callable[[], bool]) -> Hook:
    async def on_job_start(ctx: dict[Any, Any]) -> None:
        # In the task of this job: whatever becomes of it, nothing of its context reaches another's.
        _begun.set(jobs.begin(_sent.get(), attempt=ctx.get("job_try", 1)) if on() else None)
        if theirs is not None:
            await theirs(ctx)

    return on_job_start


def _ending(theirs: Hook | None) -> Hook:
    async def after_job_end(ctx: dict[Any, Any]) -> None:
        try:
            if theirs is not None:
                await theirs(ctx)
        finally:
            jobs.end(_begun.get(), flush=False)  # a flush would hold up the loop; the process flushes at its exit

    return after_job_end


class Observing:
    """arq as it is, observed until `off()`."""

    #: arq has no instrumentation of its own to go on beside ours.
    chained = False

    def __init__(self) -> None:
        self._on = True
        self._undo = [
            wrap(connections, "serialize_job", self._serializing),
            wrap(Worker, "__init__", self._making),
        ]

    def _serializing(self, found: Function) -> Function:
        def serialize_job(*args: Any, serializer: Serializer | None = None, **named: Any) -> bytes:
            written: bytes = found(*args, serializer=carrying(serializer), **named)
            return written

        return serialize_job

    def _making(self, found: Function) -> Function:
        def init(worker: Worker, *args: Any, **named: Any) -> None:
            found(worker, *args, **named | _hooked(named, lambda: self._on))

        return init

    def off(self) -> None:
        """Leave arq as it was found; workers that were made meanwhile observe no more jobs, but those that go on."""
        self._on = False
        for undo in self._undo:
            undo()


def instrument() -> Observing:
    """Observe every pool of this process, and every worker that is made from now on."""
    return Observing()


__all__ = ["ENTRY", "Observing", "carrying", "instrument", "observed", "taking"]
