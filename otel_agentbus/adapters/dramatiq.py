"""Dramatiq, observed by a middleware: a message's agents belong to whoever has sent the message.

`instrument()`, or `connect(instrument="dramatiq")`, in the process that sends and in the worker; or the middleware,
given to a broker by hand. It makes no spans. Tested with Dramatiq 2.2.1.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from dramatiq import broker as brokers
from dramatiq.broker import Broker, MessageProxy
from dramatiq.message import Message
from dramatiq.middleware import Middleware, default_middleware
from dramatiq.worker import Worker

from .. import jobs

#: The option of a message that has what is carried: a mapping of strings.
OPTION = "agentbus"

#: The messages that are being processed, by their identity: with the message itself, so that it stays that one.
_begun: dict[int, tuple[object, jobs.Begun]] = {}


class AgentBusMiddleware(Middleware):
    """What carries the run that is current into a message, and into the worker that processes it.

    It should stand before all others, so that what they send is observed, too:
    `broker.add_middleware(AgentBusMiddleware(), before=AgeLimit)`.
    """

    #: Whether messages that are sent or begun from now on are observed.
    on = True

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """A message, or the next attempt of one, is about to be sent."""
        if not self.on or OPTION in message.options:
            return
        carrier: dict[str, Any] = {}
        jobs.add_headers(carrier)
        if carrier:
            message.options[OPTION] = carrier

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """A message begins, in the thread that processes it."""
        if self.on and id(message) not in _begun:
            attempt = jobs.attempt_after(message.options.get("retries"))
            _begun[id(message)] = message, jobs.begin(message.options.get(OPTION), attempt=attempt)

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """A message has been processed, however that ended."""
        _, begun = _begun.pop(id(message), (None, None))
        jobs.end(begun)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """A message was not processed after all."""
        self.after_process_message(broker, message)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """The worker has finished; a thread that hangs may keep it from its exit."""
        if self.on:
            jobs.flush_now(True)


class DramatiqSwitch:
    """The brokers that have our middleware, until `off()`."""

    #: Dramatiq has no instrumentation of its own that would have to go on.
    chained = False

    def __init__(self) -> None:
        ours: WeakSet[AgentBusMiddleware] = WeakSet()

        class Instrumented(AgentBusMiddleware):
            """The middleware of brokers that are made while this is on."""

            def __init__(self) -> None:
                ours.add(self)

        self._ours, self._kind = ours, Instrumented
        default_middleware.insert(0, Instrumented)
        self._broker = brokers.global_broker
        if self._broker is not None:
            _add_first(self._broker, Instrumented())

    def off(self) -> None:
        """Leave Dramatiq as it was found; messages that have begun are observed to their end."""
        if self._kind in default_middleware:
            default_middleware.remove(self._kind)
        for middleware in self._ours:
            middleware.on = False
        broker, self._broker = self._broker, None
        if broker is not None and not _begun:
            broker.middleware[:] = [each for each in broker.middleware if not isinstance(each, self._kind)]


def _add_first(broker: Broker, middleware: Middleware) -> None:
    """Before all others: what they send after a message was processed is still sent by that message's job."""
    first = type(broker.middleware[0]) if broker.middleware else None
    broker.add_middleware(middleware, before=first)


def instrument() -> DramatiqSwitch:
    """Observe the global broker of this process, and every broker that is made with Dramatiq's default middleware.

    A broker made later with a list of its own must have `AgentBusMiddleware()` in that list.
    """
    return DramatiqSwitch()


__all__ = ["OPTION", "AgentBusMiddleware", "DramatiqSwitch", "instrument"]
