"""One event bus after another: hears our events, and has them published elsewhere, in order and beside the agent."""

from __future__ import annotations

import asyncio
import inspect
import os
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol, Self, TypeAlias

from ..attachment import process
from ..delivery import InThread, is_async, name_of_handler
from ..errors import ConfigurationError
from ..events import DomainEvent, Event
from ..router import Router, Subscription
from ..router.interest import Interest, What
from ..telemetry.content import ContentPolicy
from ..telemetry.event_fields import copy_of
from .telling import VIA, LlmEvents, Telling, as_events, ids_of

#: Takes an event's type and its data; may be a coroutine function.
Publish: TypeAlias = Callable[..., object]
#: What is called with the event as it may leave, its type and its data.
Send: TypeAlias = Callable[[Event, str, dict[str, Any]], object]
Names: TypeAlias = Literal["events", "llm"]

#: Seconds that an awaited publish may take before it is cancelled, and that the end waits for what is queued.
PATIENCE_S = 5.0
FAREWELL_S = 1.0
#: Before the handlers of an application, which may change what an event carries.
_EARLY = -(1 << 61)


class _Handed(Event):
    """No event of this class is ever emitted: who subscribes to it gets only what is handed to its queue."""


class _Call:
    """One call of a publish function, while it goes on: by which buses the event has come and goes."""

    __slots__ = ("via",)

    def __init__(self, via: tuple[str, ...]) -> None:
        self.via = via


_calling: ContextVar[_Call | None] = ContextVar("agentbus_forwarding", default=None)


class Bus(Protocol):
    """What events are heard from: a bus of ours, or a router alone."""

    @property
    def subscribe(self) -> Callable[..., Subscription]:
        """See `Router.subscribe`."""


class Forwarding:
    """Events on their way to another bus, until `off()` or the end of the `with`.

    `name` is that of the other bus: what has come from there (`receive`, or told while we publish there) is not sent
    back, by any process that gives it the same name.
    """

    def __init__(
        self,
        send: Send,
        what: tuple[What, ...],
        bus: Bus | None,
        *,
        name: str,
        label: str,
        telling: Telling,
        content: bool = False,
        as_task: bool = False,
        queue_size: int = 1000,
        timeout: float = PATIENCE_S,
    ) -> None:
        #: What the other bus is called.
        self.name = name
        #: What tells this forwarding's messages from those of others.
        self.id = uuid.uuid4().hex
        #: Events that were not sent because they had come from there.
        self.returned = 0
        self._send = send
        self._telling = telling
        self._timeout = timeout
        self._bus = _connected() if bus is None else bus
        self._router: Router = getattr(self._bus, "router", self._bus)  # type: ignore[arg-type]  # a router has none
        self._policy = _policy_of(self._bus, content=content)
        self._interest = Interest(what)
        self._off = False
        handler: Callable[[Event], object] = self._say_awaited if as_task else self._say
        self._mouth: Subscription = self._router.subscribe(
            handler, _Handed, deliver="task" if as_task else "thread", queue_size=queue_size
        )
        self._mouth.name = label
        self._ear: Subscription = self._router.subscribe(self._hear, priority=_EARLY)
        _forwardings.add(self)

    # -- on the agent's path -------------------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        """Queue the event, as it may leave: what is in it may be changed by its owner later."""
        allowed = self._policy.apply(event)  # of all events: what error texts must not quote stands in others
        if not self._wants(event):
            return
        calling, via = _calling.get(), _via(event)
        if calling is not None and calling.via:
            via = (*via, *(name for name in calling.via if name not in via))
            allowed = copy_of(allowed, {"attributes": {**allowed.attributes, VIA: list(via)}})
        if self.name in via:
            self.returned += 1
            return
        self._mouth.delivery.offer(allowed)

    def _wants(self, event: Event) -> bool:
        wanted = self._interest.in_class(event.__class__)
        return self._interest.in_name(event) if wanted is None else wanted

    # -- beside it -----------------------------------------------------------------------------------------------------

    def _say(self, event: Event) -> None:
        said = self._telling(event)
        if said is None:
            return
        with self._calling(event):
            answer = self._send(event, *said)
        if inspect.isawaitable(answer):
            _discard(answer)
            raise TypeError(f"{self._mouth.name} gave back what is to be awaited: forward with deliver='task'")

    async def _say_awaited(self, event: Event) -> None:
        said = self._telling(event)
        if said is None:
            return
        with self._calling(event):
            async with asyncio.timeout(self._timeout):
                answer = self._send(event, *said)
                if inspect.isawaitable(answer):
                    await answer

    @contextmanager
    def _calling(self, event: Event) -> Iterator[None]:
        call = _Call((*_via(event), self.name))
        token = _calling.set(call)
        try:
            yield
        finally:
            call.via = ()  # tasks that it has begun are not this call any more: what they tell is forwarded
            _calling.reset(token)

    # -- the other way -------------------------------------------------------------------------------------------------

    def receive(self, type: str, data: Mapping[str, Any] | None = None, ids: Mapping[str, Any] | None = None) -> bool:
        """Have our handlers hear an event of the other bus, which is not sent back there; whether they did.

        `ids` is what messages of ours have under "agentbus": one that we have sent ourselves is no news here.
        """
        ids = ids or {}
        if ids.get("by") == self.id:
            return False
        via = [*(name for name in _names(ids.get("via")) if name != self.name), self.name]
        self._router.emit(DomainEvent(name=type, data=dict(data or {}), attributes={VIA: list(via)}))
        return True

    def ids(self, event: Event) -> dict[str, Any]:
        """What a message has under "agentbus": the event's ids, who sends it, and by which buses it has come."""
        return {**ids_of(event), "by": self.id, "via": [*_via(event), self.name]}

    # -- how it is, and its end ----------------------------------------------------------------------------------------

    @property
    def sent(self) -> int:
        """How many events were published, or passed over by the names that were asked for."""
        return self._mouth.delivered

    @property
    def failed(self) -> int:
        """How many were not, because publishing raised or took too long."""
        return self._mouth.failures

    @property
    def dropped(self) -> int:
        """How many found no room in the queue, or waited when it ended."""
        return self._mouth.dropped

    def off(self, timeout: float = FAREWELL_S) -> None:
        """Forward nothing any more; what waits for a thread is published, for a moment at most."""
        if self._off:
            return
        self._off = True
        self._ear.cancel()
        delivery = self._mouth.delivery
        if isinstance(delivery, InThread):
            delivery.drained(timeout)
        self._mouth.cancel()

    async def aclose(self, timeout: float = FAREWELL_S) -> None:
        """As `off`, on an event loop: what waits for a task is published, too."""
        self._ear.cancel()
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout
        delivery = self._mouth.delivery
        while not getattr(delivery, "resting", True) and loop.time() < ends:
            await asyncio.sleep(0.005)
        self.off(0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.off()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def after_fork(self) -> None:
        """In the child: the policy's lock may have been held, and what it remembers is the parent's."""
        self._policy.after_fork()


def forward_to(
    publish: Publish,
    *what: What,
    bus: Bus | None = None,
    names: Names | Telling = "events",
    content: bool = False,
    name: str | None = None,
    deliver: Literal["thread", "task"] | None = None,
    queue_size: int = 1000,
    timeout: float = PATIENCE_S,
) -> Forwarding:
    """Publish our events on an application's own bus, by its function `publish(type, data)`.

    `data` is plain JSON, with the `agent` and, under "agentbus", the ids of the event: `invocation_id`,
    `root_invocation_id`, `source` and `seq`, `trace_id`...

    Args:
        publish: sync (called by a thread of ours) or async (awaited by a task, one event after the other).
        what: event classes and names, as in `subscribe`; none means all.
        bus: whose events: a bus or a router; the one that is connected, if none is given.
        names: "events" (`tool.end`, `agent.start`), "llm" (`llm_tool_call`, `llm_complete`: see `LlmEvents`), or a
            function from an event to its type and data, or to None.
        content: forward prompts, answers, arguments and results although they are not captured; secrets stay here.
        name: what the other bus is called, the same in all processes, so that nothing is sent back there.
        deliver: "task" for a plain function that gives back what is to be awaited.
        queue_size: how many events may wait; beyond it the oldest are dropped and counted.
        timeout: seconds after which an awaited publish is cancelled.

    Raises:
        ConfigurationError: no bus is given, and none is connected.

    """
    label = name_of_handler(publish)

    def send(event: Event, kind: str, data: dict[str, Any]) -> object:
        return publish(kind, {**data, "agentbus": forwarding.ids(event)})

    forwarding = Forwarding(
        send,
        what,
        bus,
        name=name or label,
        label=label,
        telling=telling_of(names),
        content=content,
        as_task=is_async(publish) if deliver is None else deliver == "task",
        queue_size=queue_size,
        timeout=timeout,
    )
    return forwarding


def telling_of(names: Names | Telling) -> Telling:
    """What makes a type and data of an event."""
    if names == "events":
        return as_events
    if names == "llm":
        return LlmEvents()
    if callable(names):
        return names
    raise ConfigurationError(f'names is {names!r}: give "events", "llm", or a function from an event to (type, data).')


def _connected() -> Bus:
    bus: Any = process.bus
    if bus is None:
        raise ConfigurationError("There is no bus to forward from: connect() first, or give a bus or a router.")
    found: Bus = bus
    return found


def _policy_of(bus: Bus, *, content: bool) -> ContentPolicy:
    """A policy as the bus has it, with a memory of its own: the bus's has forgotten a run when that is over."""
    given: ContentPolicy | None = getattr(bus, "content_policy", None)
    if given is None:
        return ContentPolicy("SPAN_ONLY" if content else "NO_CONTENT")
    return given.anew("SPAN_ONLY" if content else None)


def _via(event: Event) -> tuple[str, ...]:
    attributes = event.attributes
    return _names(attributes.get(VIA)) if attributes and isinstance(attributes, Mapping) else ()


def _names(found: object) -> tuple[str, ...]:
    return tuple(name for name in found if isinstance(name, str)) if isinstance(found, list | tuple) else ()


def _discard(answer: object) -> None:
    if inspect.iscoroutine(answer):
        answer.close()


_forwardings: weakref.WeakSet[Forwarding] = weakref.WeakSet()


def _after_fork() -> None:
    for forwarding in _forwardings:
        forwarding.after_fork()


os.register_at_fork(after_in_child=_after_fork)
