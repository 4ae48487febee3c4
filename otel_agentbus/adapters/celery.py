"""Celery, observed through its signals: a task's agents belong to whoever has sent the task.

`instrument()`, or `connect(instrument="celery")`, in the process that sends and in the worker. It makes no spans: those
of the queue are for OpenTelemetry's own instrumentation, which may be there as well. Tested with Celery 5.6.3.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from celery import signals  # type: ignore[import-untyped, unused-ignore]

from .. import jobs
from ..invocation import Invocation

#: What other processes are told of a task travels in its message's headers, plain strings beside Celery's own.
_begun: WeakKeyDictionary[Any, jobs.Begun] = WeakKeyDictionary()


class CelerySwitch:
    """The signals that are listened to, until `off()`."""

    #: Celery has no instrumentation of its own that would have to go on.
    chained = False

    def __init__(self) -> None:
        self._connected: list[tuple[Any, Callable[..., None]]] = [
            (signals.before_task_publish, _before_task_publish),
            (signals.task_prerun, _task_prerun),
            (signals.task_postrun, _task_postrun),
            (signals.worker_process_init, _worker_process_init),
            (signals.worker_process_shutdown, _worker_process_shutdown),
            (signals.worker_shutdown, _worker_shutdown),
        ]
        for signal, receiver in self._connected:
            signal.connect(receiver, weak=False)

    def off(self) -> None:
        """Listen no more; tasks that have begun are observed to their end."""
        for signal, receiver in self._connected:
            if receiver is not _task_postrun or not _begun:
                signal.disconnect(receiver)


def instrument() -> CelerySwitch:
    """Observe every Celery app of this process, as it sends tasks and as it runs them."""
    return CelerySwitch()


def _before_task_publish(headers: MutableMapping[str, Any] | None = None, **_: object) -> None:
    """A task, or the next attempt of one, is about to be sent."""
    if headers is not None:
        jobs.add_headers(headers)


def _task_prerun(task: Any = None, **_: object) -> None:
    """A task begins, in the process, thread or greenlet that runs it."""
    request = task.request
    if request.is_eager:  # a call in place, whose agents are those of a call
        return
    _begun[request] = jobs.begin(request.headers, attempt=jobs.attempt_after(request.retries))


def _task_postrun(task: Any = None, **_: object) -> None:
    """A task has ended, however it did; its request is the same object as when it began."""
    jobs.end(_begun.pop(task.request, None))


def _worker_process_init(**_: object) -> None:
    """A process of the pool begins, forked from wherever the worker was."""
    _begun.clear()
    Invocation.flush()


def _worker_process_shutdown(**_: object) -> None:
    """A process of the pool ends, which is without an exit of Python's."""
    jobs.close_now()


def _worker_shutdown(**_: object) -> None:
    """The worker has finished its tasks; threads that hang may keep it from its exit."""
    jobs.flush_now(True)


__all__ = ["CelerySwitch", "instrument"]
