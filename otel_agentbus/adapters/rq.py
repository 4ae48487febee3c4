"""RQ, observed: a job's agents are sub-agents of the run that has enqueued it, and nothing is lost with a work horse.

What is sent rides in `job.meta["agentbus"]`, beside what the application has there. RQ's own ways in are its classes:

    Queue(connection=redis, job_class=AgentBusJob)
    rq worker --job-class otel_agentbus.adapters.rq.AgentBusJob --worker-class otel_agentbus.adapters.rq.AgentBusWorker

`instrument()` does the same for `Queue`, `Job` and `Worker` as they are. RQ has no hooks for that, so it wraps
`Job.create`, `Job.perform` and `Worker.perform_job`. Tested with rq 3.0.0.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

from rq import SimpleWorker, Worker
from rq.job import Job
from rq.timeouts import BaseTimeoutException
from rq.worker import SpawnWorker

from .. import jobs
from ..blocks import installed
from .wrapping import Function, wrap

_log = logging.getLogger("otel_agentbus.adapters.rq")

#: Ours in `job.meta`: a dictionary of strings, as `inject` writes them, and how many retries a retried job was given.
META = "agentbus"
_RETRIES = "retries"


class AgentBusJob(Job):
    """A job that carries the run that has enqueued it, and goes on with it where it is performed.

    Without one of our workers around it, what was emitted is flushed at its end, since a work horse leaves without
    a farewell; RQ's clock for the job's timeout stands still meanwhile.
    """

    @classmethod
    def create(cls, *args: Any, **named: Any) -> Self:
        """As `Job.create`, with what `inject` says now in its `meta`."""
        made = super().create(*args, **named)
        _send(made)
        return made  # type: ignore[return-value]  # RQ says Job, and makes one of this class

    def perform(self) -> Any:
        """As `Job.perform`, as a job of the run that has enqueued it."""
        return _perform(self, super().perform, flush=True)


class _Observed:
    """A worker that gives each job a context up to the end of its callbacks, and whose horses leave nothing behind."""

    def perform_job(self, job: Job, *args: Any, **named: Any) -> Any:
        """As RQ's own."""
        return _work(self, job, lambda: super(_Observed, self).perform_job(job, *args, **named))  # type: ignore[misc]


class AgentBusWorker(_Observed, Worker):
    """RQ's `Worker`: a fork for each job."""


class AgentBusSimpleWorker(_Observed, SimpleWorker):
    """RQ's `SimpleWorker`: all jobs in its own process."""


class AgentBusSpawnWorker(_Observed, SpawnWorker):
    """RQ's `SpawnWorker`: a new interpreter for each job, in which the job's module connects the bus."""


class _Work:
    """One job in a worker."""

    __slots__ = ("again", "begun", "job")

    def __init__(self, job: Any, again: bool) -> None:
        self.job = job
        #: Whether it was performed before, as far as RQ tells.
        self.again = again
        self.begun: jobs.Begun | None = None


_working: ContextVar[_Work | None] = ContextVar("otel_agentbus.adapters.rq", default=None)


# -- where it is enqueued ----------------------------------------------------------------------------------------------


def _send(job: Any) -> None:
    try:
        sent: dict[str, Any] = {}
        jobs.add_headers(sent)
        meta = job.meta if isinstance(job.meta, Mapping) else {}
        if not sent and isinstance(meta.get(META), Mapping):
            sent = dict(meta[META])  # what the application has put there by hand
        if sent:
            job.meta = {**meta, META: sent}  # the dictionary that was given may be given with many jobs
    except Exception:  # noqa: BLE001 - whatever is wrong in telling must not reach who enqueues
        _log.warning("A job carries nothing of the run that has enqueued it", exc_info=True)


# -- where it is performed ---------------------------------------------------------------------------------------------


def _work(worker: Any, job: Any, perform_job: Callable[[], Any]) -> Any:
    """Perform a job in a worker: its context lasts over its callbacks, outside of its timeout it is flushed."""
    before = _working.get()
    if before is not None and before.job is job:
        return perform_job()
    work = _Work(job, again=bool(job.worker_name or job.ended_at))  # what RQ keeps of that
    _working.set(work)
    try:
        return perform_job()
    finally:
        _working.set(before)
        jobs.end(work.begun, flush=False if worker.is_horse else None)
        if worker.is_horse:
            _leave_for_good()


def _perform(job: Any, perform: Callable[[], Any], flush: bool | None) -> Any:
    """Perform a job as one of the run that has enqueued it; without a worker of ours around it, up to its end."""
    work = _working.get()
    if work is not None and work.job is job:
        if work.begun is None:
            _begin(work)
        return perform()
    alone = _Work(job, again=bool(job.ended_at))
    if job.worker_name == "sync":  # a queue without workers: performed, and not left, by who enqueues
        flush = None
    _working.set(alone)
    try:
        _begin(alone)
        return perform()
    finally:
        _working.set(work)
        with _clock_stopped():
            jobs.end(alone.begun, flush=flush)


def _begin(work: _Work) -> None:
    job = work.job
    if installed() is None:  # the job's own module may connect the bus, and is imported late
        try:
            _ = job.func
        except BaseTimeoutException:
            raise
        except Exception:  # noqa: BLE001 - the job fails by it, in its own place
            pass
    carried = job.meta.get(META) if isinstance(job.meta, Mapping) else None
    if not isinstance(carried, dict):
        carried = {}
    work.begun = jobs.begin(carried, attempt=_attempt(work, carried), batch=work.again)


def _attempt(work: _Work, carried: dict[str, Any]) -> int:
    """The number of this attempt, as far as RQ tells: retries after an exception count down, returned ones up."""
    job, given = work.job, carried.get(_RETRIES)
    attempt = 1 + (job.number_of_retries or 0)
    left = job.retries_left
    if left is not None and isinstance(given, str) and given.isdecimal() and len(given) < 7:
        attempt += max(int(given) - left, 0)
    if attempt == 1 and work.again and job.repeats_left is None:
        attempt = 2  # or more: RQ does not say how often it was requeued, nor how many retries it was given
    if left is not None and given is None and carried:
        carried[_RETRIES] = str(left + attempt - 1)  # RQ writes the metadata with the retry, and so we know then
    return attempt


@contextmanager
def _clock_stopped() -> Iterator[None]:
    """Let what is done here not count for the job's timeout, which RQ keeps by SIGALRM."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        if left:
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def _leave_for_good() -> None:
    """Close the bus of a work horse, as the end of a process does: RQ leaves by `os._exit`, which runs no hooks."""
    try:
        jobs.close_now()
    except Exception:  # noqa: BLE001 - whatever is wrong in telling must not reach the horse
        _log.warning("The bus of a work horse could not be closed", exc_info=True)


# -- without changed code ----------------------------------------------------------------------------------------------


class Observing:
    """RQ as it is, observed until `off()`."""

    #: RQ has no instrumentation of its own to go on beside ours.
    chained = False

    def __init__(self) -> None:
        worker = next(kind for kind in Worker.__mro__ if "perform_job" in vars(kind))
        self._undo = [
            wrap(Job, "create", _creating),
            wrap(Job, "perform", lambda found: lambda job: _perform(job, lambda: found(job), flush=None)),
            wrap(worker, "perform_job", _working_on),
        ]

    def off(self) -> None:
        """Leave RQ as it was found; a job that has begun is observed to its end."""
        for undo in self._undo:
            undo()


def _creating(found: Function) -> Function:
    def create(*args: Any, **named: Any) -> Any:
        made = found(*args, **named)
        _send(made)
        return made

    return create


def _working_on(found: Function) -> Function:
    def perform_job(worker: Any, job: Any, *args: Any, **named: Any) -> Any:
        return _work(worker, job, lambda: found(worker, job, *args, **named))

    return perform_job


def instrument() -> Observing:
    """Observe every queue and worker of this process, and the horses that it forks."""
    return Observing()


__all__ = [
    "META",
    "AgentBusJob",
    "AgentBusSimpleWorker",
    "AgentBusSpawnWorker",
    "AgentBusWorker",
    "Observing",
    "instrument",
]
